"""Text to token ids and back: a tokenizer of our own, or any tokenizer.json."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths
from lm2_jax.runtime.files import replacing

_CONFIG = "tokenizer_config.json"

PAD = "<pad>"
ANSWER = "<answer>"  # stands between a question and its answer
END = "<end>"  # ends an answer
UNK = "<unk>"
SPECIAL_TOKENS = (PAD, ANSWER, END, UNK)

# Unused tokens of Llama 3 (<|reserved_special_token_0|>), Gemma (<unused0>), BERT ([unused0]),
# Mistral ([control_8], <SPECIAL_20>) and Phi 3 (<|placeholder1|>).
_RESERVED = re.compile(
    r"[<\[]\|?(?:reserved_special_token_|unused|control_|SPECIAL_|placeholder)\d+\|?[>\]]")
_PADS = (PAD, "<|finetune_right_pad_id|>", "[PAD]")
_ENDS_OF_TEXT = ("<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "<|eot_id|>", "<|eom_id|>",
                 "<|im_end|>", "<|end|>", "<end_of_turn>")

# Word tokenizers: a punctuation mark attaches to the word before it and is separated from the word
# after it. A mark that is joined to the next word is a token of its own ("," and ",⌢"), so that
# "apple,milk" is decoded as it was, and a text has the tokens of its sentences.
_JOIN = "⌢"
_JOINED = r"(?<=[^\w\s])(?<!\w['’])(?=\w)"
_WORD_OR_MARK = rf"\w+(?:['’]\w+)*|[^\w\s]{_JOIN}?"
_ATTACHED = rf"""[^\w\s(\[{{“‘"']|["'](?!{_JOIN})"""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A `tokenizers.Tokenizer` with an answer mark and an end mark, made by `load` or `train`.

    A special token that is spelt out in a text is encoded as that token, as is usual in that
    library.

    Attributes:
      bos: the token that the tokenizer puts before a text; None if it puts none.
      eos: the end of a text, as tokenizer_config.json names it; None if it does not.
      pad: the padding token.
    """

    _tokenizer: tokenizers.Tokenizer
    bos: str | None = None
    eos: str | None = None
    pad: str = PAD

    @property
    def pad_id(self) -> int:
        return self._id(self.pad)

    @property
    def answer_id(self) -> int:
        return self._id(ANSWER)

    @property
    def end_id(self) -> int:
        return self._id(END)

    @property
    def eos_id(self) -> int | None:
        """The id of the end of a text; None if the tokenizer names none."""
        return None if self.eos is None else self._id(self.eos)

    @property
    def unk_id(self) -> int | None:
        """The id of unknown words; None if the tokenizer has none."""
        name = getattr(self._tokenizer.model, "unk_token", None)
        return self._tokenizer.token_to_id(name or UNK)

    @cached_property
    def bos_ids(self) -> tuple[int, ...]:
        """The id that a sequence begins with, or nothing."""
        return () if self.bos is None else (self._id(self.bos),)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer: the end mark, and the tokenizer's own ends of a text."""
        added = self._tokenizer.get_added_tokens_decoder()
        ends = {i for i, token in added.items() if token.content in _ENDS_OF_TEXT}
        named = {self._id(name) for name in (END, self.eos) if name}
        return frozenset(ends | named)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the serialized tokenizer; saving and loading keeps it."""
        config = self._config()
        written = self._tokenizer.to_str() + (json.dumps(config) if config else "")
        return hashlib.sha256(written.encode()).hexdigest()

    def id_of(self, token: str) -> int:
        """The id of a token of the vocabulary; a ValueError if there is no such token."""
        return self._id(token)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens.

        Raises:
          UserError: a word is unknown and the tokenizer has no token for that.
        """
        with _naming_unknown_words():
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, one list of ids for each text."""
        with _naming_unknown_words():
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens skipped."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, path: str | os.PathLike) -> None:
        """Writes a tokenizer.json, each file atomically.

        A tokenizer_config.json beside it names BOS, EOS and PAD where the tokenizer has its own.
        """
        beside = paths.of(path).with_name(_CONFIG)
        if config := self._config():
            with replacing(beside) as partial:
                partial.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        else:
            beside.unlink(missing_ok=True)
        with replacing(path) as partial:
            partial.write_text(self._tokenizer.to_str(), "utf-8")

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return found

    def _config(self) -> dict[str, str | bool | None]:
        """What tokenizer_config.json says; empty for the tokens that we add ourselves."""
        config: dict[str, str | bool | None] = {
            "bos_token": self.bos, "add_bos_token": self.bos is not None,
            "eos_token": self.eos, "pad_token": self.pad}
        return config if (self.bos, self.eos, self.pad) != (None, None, PAD) else {}


@contextlib.contextmanager
def _naming_unknown_words() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:  # the library has no class of its own
            raise
        raise UserError("a text has words that the tokenizer does not know, and it has no token "
                        f"for unknown words ({error}); take another tokenizer") from None


def load(path: str | os.PathLike) -> Tokenizer:
    """Reads a tokenizer.json, or the one in a folder, and gives it the special tokens it lacks.

    They take the place of reserved tokens where the tokenizer has some, so that its size stays as
    it is, and are appended otherwise. Its own BOS, EOS and PAD are used; a tokenizer_config.json
    beside it says which they are. Truncation and padding that the file asks for are switched off.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a tokenizer.
    """
    path = paths.of(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise UserFileNotFoundError(f"no tokenizer at {path}: expected a tokenizer.json file")
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # the library raises nothing narrower
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a valid tokenizer.json: {reason}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _read_config(path.with_name(_CONFIG))
    known = tokenizer.get_vocab(with_added_tokens=True)
    bos, eos, pad = (_named(config, key, known) for key in ("bos_token", "eos_token", "pad_token"))
    saved_by_us = ANSWER in known
    if not pad and not saved_by_us:
        pad = next((name for name in _PADS if name in known), None)
    tokenizer = _with_special_tokens(tokenizer, (pad or PAD, ANSWER, END))
    if not config.get("add_bos_token"):
        bos = None if saved_by_us else _template_bos(tokenizer)
    return Tokenizer(tokenizer, bos, eos, pad or PAD)


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text("utf-8-sig")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object")
    return config


def _named(config: Mapping, key: str, known: Mapping[str, int]) -> str | None:
    """The token that stands under a key, as text or as {"content": text}, if it is known."""
    token = config.get(key)
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) and token in known else None


def _template_bos(tokenizer: tokenizers.Tokenizer) -> str | None:
    """The token that the tokenizer's template puts before a text."""
    first = tokenizer.encode(ANSWER).tokens[0]
    return first if first != ANSWER else None


def _with_special_tokens(tokenizer: tokenizers.Tokenizer, names: Sequence[str]
                         ) -> tokenizers.Tokenizer:
    """The tokenizer with these special tokens, new ones under reserved names as far as possible."""
    known = tokenizer.get_vocab(with_added_tokens=True)
    reserved = sorted(filter(_RESERVED.fullmatch, known), key=known.__getitem__)
    if new := dict(zip(reserved, (n for n in names if n not in known), strict=False)):
        written = json.loads(tokenizer.to_str())
        for token in written["added_tokens"]:
            token["content"] = new.get(token["content"], token["content"])
            token["special"] |= token["content"] in names
        model = written["model"]
        model["vocab"] = ({new.get(t, t): i for t, i in model["vocab"].items()}
                          if isinstance(model["vocab"], dict) else
                          [[new.get(t, t), score] for t, score in model["vocab"]])
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(written))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    return tokenizer


def train(
    texts: Iterable[str], *, kind: str = "word", vocab_size: int, required: Iterable[str] = ()
) -> Tokenizer:
    """Trains a tokenizer on `texts`; the same texts give the same tokenizer.

    Args:
      texts: the training texts.
      kind: "word": the most frequent words and punctuation marks, all others are <unk>, and white
        space is normalized; "bpe": byte-level pairs, which encode and decode any text exactly.
      vocab_size: the largest number of tokens, the four special ones included.
      required: more training texts, all of whose words a word tokenizer knows.

    Raises:
      ValueError: the kind is unknown, or `vocab_size` is too small for the required words.
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
            decoders.Replace(Regex(f" (?={_ATTACHED})"), ""),
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
    return Tokenizer(_with_special_tokens(_word_tokenizer(vocab), SPECIAL_TOKENS))


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
    return Tokenizer(_with_special_tokens(tokenizer, SPECIAL_TOKENS))
