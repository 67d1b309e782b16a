"""Trains a tokenizer: of words, or of byte pairs."""

from collections import Counter
from collections.abc import Iterable
from itertools import chain

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from lm2_jax.data.tokenizer.special import SPECIAL_TOKENS, UNK, with_special_tokens
from lm2_jax.data.tokenizer.tokenizer import Tokenizer
from lm2_jax.errors import UserError

# Word tokenizers: a punctuation mark attaches to the word before it and is separated from the word
# after it. A mark that is joined to the next word is a token of its own ("," and ",⌢"), so that
# "apple,milk" is decoded as it was, and a text has the tokens of its sentences.
_JOIN = "⌢"
_JOINED = r"(?<=[^\w\s])(?<!\w['’])(?=\w)"
_WORD_OR_MARK = rf"\w+(?:['’]\w+)*|[^\w\s]{_JOIN}?"
_ATTACHED = rf"""[^\w\s(\[{{“‘"']|["'](?!{_JOIN})"""


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
    return Tokenizer(with_special_tokens(_word_tokenizer(vocab), SPECIAL_TOKENS))


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
    return Tokenizer(with_special_tokens(tokenizer, SPECIAL_TOKENS))
