"""Packs documents into rows of segments: a row is a pure function of its number.

Every document begins at a segment border, and the state is reset there. So no document sees
another: attention, window, positions and the memory end at a reset, whatever the kind of memory,
and no kernel needs to know of documents. What it costs is the padding behind the last token of each
document, half a segment on average: below 1 % of books in segments of 512 tokens (below 4 % of 2048
in rows of 16), but of documents as short as web pages (mean 1,040 tokens, median 660) 11, 20, 35
and 56 % in segments of 256, 512, 1024 and 2048.

The other way, several documents in a segment, would cost the paper's model some 4 % for a second
read of the memory (the tokens of documents that do not begin with the segment see the initial
state), and so win back a sixth of the time on such short documents in segments of 512. It is not
done: the read, the write, the window and the memory tokens of every kind of memory would have to
keep documents apart within a segment, and so would every attention kernel; and it gains most where
most documents are no longer than a segment, where a memory learns nothing. Choose
`model.segment_length` well below the length of the documents.

A document is cut only if it is longer than a row: into rows of whole segments, each read from the
initial state, and a rest. Rests and shorter documents fill rows by first-fit decreasing within
their shard, which wastes next to nothing, since sizes are small numbers of segments. grain's own
packing (`grain.experimental`: first-fit, concatenate-then-split) is not used: both are iterators
whose batch n depends on all that was read before, so that a position would be more than a number.
"""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from lm2_jax.data.shards.reading import Documents
from lm2_jax.types import Batch

PLANS = 64  # of shards that are kept in memory


@dataclass(frozen=True)
class Piece:
    """Consecutive segments of a document.

    Attributes:
      document: its number in the shard.
      first: the number of the first segment, in the document.
      segments: how many.
    """

    document: int
    first: int
    segments: int


def num_segments(tokens: np.ndarray, segment_length: int) -> np.ndarray:
    """Segments of documents of so many tokens: the last token of each is only a target."""
    return -(-(tokens.astype(np.int64) - 1) // segment_length)


class Plan:
    """The rows of a shard.

    Args:
      sizes: segments of each document, at least 1.
      row_segments: S, segments of a row.
    """

    def __init__(self, sizes: np.ndarray, row_segments: int):
        self._sizes, self._S = sizes, row_segments
        self._cut = np.cumsum(sizes // row_segments)  # full rows until the end of each document
        rests = sizes % row_segments
        # Documents by the size of their rest, and where each size begins.
        self._by_size = np.argsort(rests, kind="stable")
        counts = np.bincount(rests, minlength=row_segments)
        self._begin = np.cumsum(counts) - counts
        counts[0] = 0
        patterns = _first_fit_decreasing(counts, row_segments)
        self._takes = np.array([take for take, _ in patterns], np.int64).reshape(-1, row_segments)
        repeats = np.array([repeat for _, repeat in patterns], np.int64)
        self._last = np.cumsum(repeats)  # rows until the end of each pattern
        done = self._takes * repeats[:, None]
        self._used = np.cumsum(done, axis=0) - done  # rests of each size before each pattern

    def __len__(self) -> int:
        """Rows of the shard."""
        return int(self._cut[-1] + (self._last[-1] if len(self._last) else 0))

    def __getitem__(self, row: int) -> list[Piece]:
        if row < self._cut[-1]:
            document = int(np.searchsorted(self._cut, row, side="right"))
            before = int(self._cut[document - 1]) if document else 0
            return [Piece(document, (row - before) * self._S, self._S)]
        row -= int(self._cut[-1])
        pattern = int(np.searchsorted(self._last, row, side="right"))
        row -= int(self._last[pattern - 1]) if pattern else 0
        pieces = []
        for size in np.flatnonzero(self._takes[pattern])[::-1].tolist():
            take = int(self._takes[pattern, size])
            first = int(self._begin[size] + self._used[pattern, size]) + row * take
            pieces += [Piece(document, int(self._sizes[document]) - size, size)
                       for document in self._by_size[first:first + take].tolist()]
        return pieces


def _first_fit_decreasing(counts: np.ndarray, room: int) -> list[tuple[np.ndarray, int]]:
    """Fills rows of `room` with items, the largest that fits first.

    Args:
      counts: how many items of each size there are, [room].

    Returns:
      (items of each size, rows that are filled so), until no item is left.
    """
    left, found = counts.copy(), []
    while left.any():
        take, space = np.zeros_like(left), room
        for size in np.flatnonzero(left)[::-1]:
            take[size] = min(space // size, left[size])
            space -= take[size] * size
        repeat = int((left[take > 0] // take[take > 0]).min())
        left -= repeat * take
        found.append((take, repeat))
    return found


@dataclass(frozen=True)
class Rows:
    """The rows of a split, by number; a source for grain.

    Attributes:
      documents: of the split.
      row_segments: S, segments of a row.
      segment_length: T, tokens.
      pad_id: token of the padding.
      prompt_weight: loss weight of the tokens of a prompt.
    """

    documents: Documents
    row_segments: int
    segment_length: int
    pad_id: int
    prompt_weight: float

    @functools.cached_property
    def first(self) -> np.ndarray:
        """Number of the first row of each shard, and of all rows: int64 [shards + 1]."""
        counts = [len(self._plan(shard)) for shard in range(len(self.documents.shards))]
        return np.cumsum([0, *counts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, row: int) -> Batch:
        """A row; every field is [S * T] or [S]."""
        S, T = self.row_segments, self.segment_length
        shard, pieces = self.pieces(row)
        made = Batch(tokens_BL=np.full(S * T, self.pad_id, np.int32),
                     targets_BL=np.full(S * T, self.pad_id, np.int32),
                     loss_weight_BL=np.zeros(S * T, np.float32), answer_BL=np.zeros(S * T, bool),
                     valid_BL=np.zeros(S * T, bool), reset_BS=np.zeros(S, bool))
        segment = 0
        for piece in pieces:
            tokens, prompt = self.documents.read(shard, piece.document)
            made.reset_BS[segment] = True
            begin = piece.first * T
            n = min(piece.segments * T, len(tokens) - 1 - begin)
            there = slice(segment * T, segment * T + n)
            made.tokens_BL[there] = tokens[begin:begin + n]
            made.targets_BL[there] = tokens[begin + 1:begin + n + 1]
            made.valid_BL[there] = True
            completion = np.arange(begin + 1, begin + n + 1) >= prompt
            made.loss_weight_BL[there] = np.where(completion, 1.0, self.prompt_weight)
            made.answer_BL[there] = completion & (prompt > 0)
            segment += piece.segments
        return made

    def pieces(self, row: int) -> tuple[int, list[Piece]]:
        """The number of the shard that a row is of, and what the row holds, in order."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        shard = int(np.searchsorted(self.first, row, side="right")) - 1
        return shard, self._plan(shard)[row - int(self.first[shard])]

    def padding(self) -> float:
        """The fraction of padding in all rows."""
        documents = self.documents
        targets = documents.manifest.total(documents.split, "tokens") - len(documents)
        return 1 - targets / (len(self) * self.row_segments * self.segment_length)

    def _plan(self, shard: int) -> Plan:
        plans = self._plans
        if shard not in plans:
            if len(plans) >= PLANS:
                del plans[next(iter(plans))]
            sizes = num_segments(self.documents.index(shard)["tokens"], self.segment_length)
            plans[shard] = Plan(sizes, self.row_segments)
        return plans[shard]

    @functools.cached_property
    def _plans(self) -> dict[int, Plan]:
        return {}

    def __getstate__(self) -> dict:
        kept = [field.name for field in dataclasses.fields(self)] + ["first"]
        return {name: value for name, value in self.__dict__.items() if name in kept}
