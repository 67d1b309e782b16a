"""Text to token ids and back, over the `tokenizers` library: any tokenizer.json, or our own."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from lm2_jax.errors import UserError, UserFileNotFoundError

PAD = "<pad>"
ANSWER = "<answer>"
END = "<end>"
UNK = "<unk>"
SPECIAL_TOKENS = (PAD, ANSWER, END, UNK)

# Word tokenizers: a punctuation mark clings to the word before it and keeps off the one after it,
# unless the mark is joined to the next word, which makes it another token ("," and ",⌢"). So
# "apple,milk" comes back as it was, and a text is tokenized as its sentences are one by one.
_JOIN = "⌢"
_JOINED = r"(?<=[^\w\s])(?<!\w['’])(?=\w)"
_WORD_OR_MARK = rf"\w+(?:['’]\w+)*|[^\w\s]{_JOIN}?"
_CLINGING = rf"""[^\w\s(\[{{“‘"']|["'](?!{_JOIN})"""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A `tokenizers.Tokenizer` that holds the four special tokens, made by `load` or `train`.

    As always with that library, a special token spelt out in a text is read as that token.
    """

    _tokenizer: tokenizers.Tokenizer

    @property
    def pad_id(self) -> int:
        return self._tokenizer.token_to_id(PAD)

    @property
    def answer_id(self) -> int:
        return self._tokenizer.token_to_id(ANSWER)

    @property
    def end_id(self) -> int:
        return self._tokenizer.token_to_id(END)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the serialised tokenizer; saving and loading keeps it."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, one list of ids for each text."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens skipped."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, path: str | os.PathLike) -> None:
        """Writes a tokenizer.json; a reader sees the old file or the new one, never a part."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(self._tokenizer.to_str(), encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _with_special_tokens(tokenizer: tokenizers.Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    return Tokenizer(tokenizer)


def load(path: str | os.PathLike) -> Tokenizer:
    """Reads a tokenizer.json, or the one in a folder, and adds the special tokens it lacks.

    Truncation and padding that the file asks for are switched off.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a tokenizer.
    """
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise UserFileNotFoundError(f"no tokenizer at {path}: expected a tokenizer.json file")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a valid tokenizer.json: {reason}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _with_special_tokens(tokenizer)


def train(
    texts: Iterable[str], *, kind: str = "word", vocab_size: int, required: Iterable[str] = ()
) -> Tokenizer:
    """A tokenizer made from `texts`; the same texts give the same tokenizer.

    Args:
      texts: what the words are counted in.
      kind: "word" (words and punctuation marks, the most frequent ones, the rest <unk>; blanks
        are normalised) or "bpe" (byte-level pairs; any text comes back exactly).
      vocab_size: at most so many tokens, the four special ones included.
      required: texts that count as well, and whose words get in first, however rare.

    Raises:
      ValueError: the kind is unknown, or `vocab_size` has no room for what must be in.
    """
    if kind == "word":
        return _train_word(texts, vocab_size, required)
    if kind == "bpe":
        return _train_bpe(chain(required, texts), vocab_size)
    raise UserError(f"tokenizer kind must be 'word' or 'bpe', got {kind!r}")


def _word_tokenizer(vocab: dict[str, int]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=UNK))
    tokenizer.normalizer = normalizers.Replace(Regex(_JOINED), _JOIN)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD_OR_MARK), "removed", invert=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix=_JOIN, cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex(f" (?={_CLINGING})"), ""),
            decoders.Replace(Regex(f"{_JOIN} ?"), ""),
        ]
    )
    return tokenizer


def _train_word(texts: Iterable[str], vocab_size: int, required: Iterable[str]) -> Tokenizer:
    rules = _word_tokenizer({UNK: 0})

    def words(text: str) -> list[str]:
        pieces = rules.pre_tokenizer.pre_tokenize_str(rules.normalizer.normalize_str(text))
        return [word for word, _ in pieces]

    counts = Counter(chain.from_iterable(map(words, required)))
    needed = frozenset(counts)
    room = vocab_size - len(SPECIAL_TOKENS)
    if len(needed) > room:
        raise UserError(
            f"a word vocabulary of {vocab_size} has no room for {len(needed)} required words "
            f"and {len(SPECIAL_TOKENS)} special tokens"
        )
    counts.update(chain.from_iterable(map(words, texts)))
    ranked = sorted(counts, key=lambda word: (word not in needed, -counts[word], word))
    vocab = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *ranked[: max(room, 0)]))}
    return _with_special_tokens(_word_tokenizer(vocab))


def _train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(alphabet) + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise UserError(f"a bpe vocabulary needs at least {least} tokens, got {vocab_size}")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_special_tokens(tokenizer)
