"""The panels of a question and of a long text: what is measured, and what to look for in it."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm2_jax.analysis import attention, plots, reading
from lm2_jax.analysis.page import Panel
from lm2_jax.analysis.reading import Trace
from lm2_jax.analysis.text import Sentence
from lm2_jax.data.babilong.kinds import FACT
from lm2_jax.model.lm import LanguageModel
from lm2_jax.types import Params

LONGEST_TEXT = 256  # segments that the panel of the gates shows
_SENTENCES = 40  # shown at most
_WORDS = 48
_SEGMENTS = 64  # that the panel of movement shows
BLOCKS_SHOWN = 4
_GATE_LABELS = {"output": "output gate", "input": "input gate i", "forget": "forget gate f",
                "open": "open, u"}


@dataclass(frozen=True)
class Model:
    """A model and its variables, and where its pictures are written."""

    model: LanguageModel
    params: Params
    pad_id: int
    folder: Path
    progress: Callable[[int], None] = lambda segments: None

    @property
    def segment_length(self) -> int:
        return self.model.config.segment_length

    @property
    def rows_are(self) -> str:
        """What the rows of the memory's state are."""
        return "slot" if self.model.config.memory.kind in ("lm2", "rmt") else "row of the state"


@dataclass(frozen=True)
class Text:
    """A text that ends with a question.

    Attributes:
      tokens: int32 [L].
      kinds: of the tokens, [L].
      sentences: in order.
      words: the text of each token.
      support: the sentence that answers the question; None if it was not found.
      subtitle: says what the text is, below every picture's title.
    """

    tokens: np.ndarray
    kinds: np.ndarray
    sentences: Sequence[Sentence]
    words: Sequence[str]
    support: Sentence | None
    subtitle: str

    def last_segment(self, segment_length: int) -> int:
        return (len(self.tokens) - 1) // segment_length

    def is_apart(self, segment_length: int) -> bool:
        """Whether the supporting sentence ends in a segment before the question's."""
        return (self.support is not None and self.support.segments(segment_length)[1]
                < self.last_segment(segment_length))

    def fact_segments(self, segment_length: int) -> list[int]:
        return sorted(set((np.flatnonzero(self.kinds == FACT) // segment_length).tolist()))


def of_text(m: Model, text: Text, block: int | None, head: int | None) -> list[Panel]:
    """The panels of one question: what it reads, what holds which fact, how the memory moves."""
    T, last, banks_at = m.segment_length, text.last_segment(m.segment_length), {}
    if text.support and text.is_apart(T):
        first, end = text.support.segments(T)
        banks_at = {"before the fact is written": first, "after": end + 1}
        if end + 1 < last:
            banks_at["when the question comes"] = last
    trace = reading.trace(m.model, m.params, text.tokens, m.pad_id, set(banks_at.values()),
                          m.progress)
    banks = {name: trace.states[number] for name, number in banks_at.items()}
    maps = None
    if banks:
        length = len(text.tokens) - last * T
        shown = max(0, length - _WORDS)
        maps = attention.read_maps(m.model, m.params, banks, text.tokens, last, m.pad_id, shown,
                                   block, head)
    moved_block = maps.block if maps else min(block or 0, trace.moved.shape[1] - 1)
    return [_read_panel(m, text, maps, bool(banks)), _sentence_panel(m, text, trace, block),
            _movement_panel(m, text, trace, moved_block)]


def _read_panel(m: Model, text: Text, maps: attention.Maps | None, has_banks: bool) -> Panel:
    panel = Panel(
        "read", "What the question reads, before and after the fact is written",
        "Between the first map and the second the words of the question should move to the slots "
        "that were written with the fact, and still be there when the question comes; maps that "
        "stay alike mean that this head does not use the fact.")
    if maps is None:
        return dataclasses.replace(panel, reason="this kind of memory has no attention over slots"
                                   if has_banks else "the sentence that answers the question was "
                                   "not found in a segment before the question's")
    assert text.support is not None  # there are banks
    T, shown = m.segment_length, next(iter(maps.maps.values())).shape[0]
    subtitle = f"{text.subtitle}\nthe fact: {text.support.text}"
    words = text.words[len(text.words) - shown:]
    return dataclasses.replace(
        panel, picture=plots.read_maps(maps, words, m.folder / "read.png", subtitle),
        numbers={"block": maps.block, "head": maps.head, "words": words, "maps": maps.maps,
                 "fact": text.support.text, "fact_segments": text.support.segments(T),
                 "change_of_each_block_and_head": maps.change})


def _sentence_panel(m: Model, text: Text, trace: Trace, block: int | None) -> Panel:
    panel = Panel(
        "sentences", "Which slots hold which fact",
        "A fact (orange) should stand out from prose in a few slots: shown is the share of a "
        "slot's write attention that goes to the sentence"
        + (", on the right the same times u, which is 0 where nothing is written."
           if trace.written is not None else "."))
    if trace.write is None:
        return dataclasses.replace(panel, reason="this kind of memory has no write attention")
    chosen = _nearest(text)
    block = _clearest_block(trace, text.sentences) if block is None else block
    maps = {"write attention": sentence_shares(trace.write[:, block], chosen)}
    if trace.written is not None:
        maps["write attention x u"] = sentence_shares(trace.written[:, block], chosen)
    texts, is_fact = [s.text for s in chosen], [s.kind == FACT for s in chosen]
    return dataclasses.replace(
        panel, picture=plots.sentence_maps(
            maps, texts, is_fact, m.folder / "sentences.png",
            f"What is written to the slots of block {block}, by sentence",
            f"{text.subtitle}\nfacts in orange; means over heads; unknown words: _"),
        numbers={"block": block, "sentences": texts, "facts": is_fact, "maps": maps})


def sentence_shares(write_STM: np.ndarray, sentences: Sequence[Sentence]) -> np.ndarray:
    """The write attention of each sentence, summed over its tokens, [sentences, M].

    Of a sentence that lies in two segments it is the larger of its two shares.
    """
    S, T, M = write_STM.shape
    shares = np.zeros((len(sentences), M))
    for row, sentence in enumerate(sentences):
        first, last = sentence.segments(T)
        for number in range(first, last + 1):
            begin, end = sentence.start - number * T, sentence.end - number * T
            share = write_STM[number, max(begin, 0):max(end, 0)].sum(axis=0)
            shares[row] = np.maximum(shares[row], share)
    return shares


def _clearest_block(trace: Trace, sentences: Sequence[Sentence]) -> int:
    """The block whose slots, by what is written most to one of them, tell facts from prose best."""
    write_SPTM = trace.write if trace.written is None else trace.written
    assert write_SPTM is not None  # there is write attention
    is_fact = np.array([sentence.kind == FACT for sentence in sentences])
    if is_fact.all() or not is_fact.any():
        return 0
    most_PX = np.stack([sentence_shares(write_STM, sentences).max(axis=1)
                        for write_STM in write_SPTM.swapaxes(0, 1)])
    return int((most_PX[:, is_fact].mean(axis=1) - most_PX[:, ~is_fact].mean(axis=1)).argmax())


def _nearest(text: Text) -> list[Sentence]:
    """The facts, and the sentences nearest to the supporting one, at most _SENTENCES."""
    found = list(text.sentences)
    at = found.index(text.support) if text.support in found else len(found) - 1
    order = sorted(range(len(found)), key=lambda i: (found[i].kind != FACT, abs(i - at)))
    return [found[i] for i in sorted(order[:_SENTENCES])]


def _movement_panel(m: Model, text: Text, trace: Trace, block: int) -> Panel:
    first = max(0, len(trace.moved) - _SEGMENTS)
    moved, P = trace.moved[first:], trace.moved.shape[1]
    blocks = list(range(P)) if P <= BLOCKS_SHOWN else [block]
    facts = [n for n in text.fact_segments(m.segment_length) if n >= first]
    return Panel(
        "movement", "How the memory moves while it reads and answers",
        "It should move where facts stand and rest in prose; what moves in the last column is what "
        "the question itself writes over.",
        plots.movement(moved, blocks, facts, first, m.folder / "movement.png", m.rows_are,
                       text.subtitle),
        {"first_segment": first, "fact_segments": facts, "moved": moved})


def of_long_text(m: Model, text: Text) -> Panel:
    """The gates over a long text."""
    trace = reading.trace(m.model, m.params, text.tokens, m.pad_id, progress=m.progress)
    panel = Panel(
        "gates", "The gates over a long text",
        "Gates that tell facts from prose jump at the marked segments; in between, u (or, without "
        "it, i) should lie near 0 and f near 1, or the memory fills with prose.")
    if not trace.gates:
        return dataclasses.replace(panel, reason="this kind of memory has no such gates")
    facts = text.fact_segments(m.segment_length)
    named = {_GATE_LABELS[name]: trace.gates[name] for name in reading.GATES if name in trace.gates}
    return dataclasses.replace(
        panel, picture=plots.gates(named, facts, m.folder / "gates.png",
                                   f"{text.subtitle}\nmeans over slots and dimensions"),
        numbers={"fact_segments": facts, "gates": trace.gates})


def num_readings(m: Model, *texts: Text) -> int:
    """How often `progress` is told of a segment."""
    return sum(text.last_segment(m.segment_length) + 1 for text in texts)
