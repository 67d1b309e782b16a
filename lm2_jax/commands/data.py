"""`lm2 data`: the batch of a step as text."""

import argparse
import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from lm2_jax.commands import arguments
from lm2_jax.config import Config, files
from lm2_jax.data import sources
from lm2_jax.data.babilong import corpus
from lm2_jax.data.babilong.encoder import Encoder
from lm2_jax.data.babilong.kinds import kinds_of
from lm2_jax.data.shards.batches import Mixture
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import UserError
from lm2_jax.runtime.console import Console
from lm2_jax.types import Batch

STYLES = ("dim", "cyan", "yellow", "bold green")
LEGEND = ("prose", "fact", "question", "answer")
CORPUS_LEGEND = ("text", "", "prompt", "completion")
TEXT, _, PROMPT, COMPLETION = range(4)
UNKNOWN = "◌"
CLINGING = tuple(".,;:!?)'’”")  # no blank before these


def show(config: Config, step: int, rows: int, console: Console | None = None) -> None:
    """Prints the first rows of a step's batch, segment by segment, and facts about the batch."""
    if step < 0:
        raise UserError(f"--step is {step}; it must be at least 0")
    console = console or Console()
    tokenizer = corpus.make_tokenizer(config.data, config.seed)
    drawn_from = sources.open_training(config, tokenizer)
    source = sources.make_source(
        config.data, drawn_from, segment_length=config.model.segment_length, seed=config.seed,
        batch_size=config.train.batch_size, num_steps=config.train.num_steps)
    batch = source[step]
    if isinstance(drawn_from, Mixture):
        ends = {documents.manifest.job.end for documents in drawn_from.corpora}
        legend, marks = CORPUS_LEGEND, "● document begins  ■ ends"
        show_row = functools.partial(_corpus_row, tokenizer=tokenizer, ends=ends)
        facts = "documents, or parts of long ones"
    else:
        legend = LEGEND
        marks = f"● sample begins  → answer mark  ■ end mark  {UNKNOWN} unknown word"
        show_row = functools.partial(_row, encoder=drawn_from.encoder)
        facts = _facts(batch, tokenizer.answer_id)
    console.print(Text.assemble(
        *((f"{name}  ", style) for name, style in zip(legend, STYLES, strict=True) if name),
        ("loss weight 1", "underline"), f" (elsewhere {config.data.loss_on_all:g})  ", marks))
    for row in range(min(rows, len(batch.tokens_BL))):
        console.print(show_row(row, batch))
    B, S = batch.reset_BS.shape
    console.print(f"step {step}: {B} rows of {S} x {batch.tokens_BL.shape[1] // S} tokens; a row "
                  f"has {batch.reset_BS.sum() / B:.1f} {facts}; loss weight 1 on "
                  f"{(batch.loss_weight_BL >= 1).mean():.1%}, padding "
                  f"{1 - batch.valid_BL.mean():.1%}")


def _row(row: int, batch: Batch, encoder: Encoder) -> Table:
    """A line for each segment; a bullet where a sample begins."""
    tokens = batch.tokens_BL[row]
    kinds, counts = kinds_of(tokens, encoder), _as_predicted(batch.loss_weight_BL[row] >= 1)
    return _table(row, batch, lambda kept: _text(tokens[kept], kinds[kept], counts[kept], encoder))


def _corpus_row(row: int, batch: Batch, tokenizer: Tokenizer, ends: Collection[int]) -> Table:
    """The same for a row of documents; the token that ends one is not read, only predicted."""
    tokens, targets, valid = batch.tokens_BL[row], batch.targets_BL[row], batch.valid_BL[row]
    segments = np.repeat(np.cumsum(batch.reset_BS[row]), len(tokens) // batch.reset_BS.shape[1])
    answer = _as_predicted(batch.answer_BL[row])
    with_prompt = np.isin(segments, segments[batch.answer_BL[row]])
    kinds = np.where(answer, COMPLETION, np.where(with_prompt, PROMPT, TEXT))
    counts = _as_predicted(batch.loss_weight_BL[row] >= 1)

    def text(kept: np.ndarray) -> Text:
        shown, looks = Text(), list(zip(kinds[kept].tolist(), counts[kept].tolist(), strict=True))
        for start, stop in _runs(looks):
            kind, under = looks[start]
            words = re.sub(r"\s+", " ", tokenizer.decode(tokens[kept[start:stop]]))
            shown.append(words, STYLES[kind] + (" underline" if under else ""))
        last = kept[-1] if len(kept) else 0
        ended = last + 1 == len(tokens) or not valid[last + 1] or segments[last + 1] != segments[
            last]
        if len(kept) and ended and targets[last] in ends:
            shown.append("■", "underline" if batch.loss_weight_BL[row, last] >= 1 else "")
        return shown

    return _table(row, batch, text)


def _as_predicted(of_target: np.ndarray) -> np.ndarray:
    """What holds of each token as the target of the one before it; False for the first."""
    return np.append(False, of_target[:-1])


def _table(row: int, batch: Batch, text_of: Callable[[np.ndarray], Text]) -> Table:
    """A line for each segment.

    Args:
      text_of: given the indices of the tokens of a segment that are no padding, returns the line.
    """
    S, valid = batch.reset_BS.shape[1], batch.valid_BL[row]
    table = Table(title=f"row {row}", title_justify="left", title_style="bold", show_header=False,
                  padding=(0, 1))
    table.add_column(justify="right")
    table.add_column()
    for segment, part in enumerate(np.split(np.arange(len(valid)), S)):
        begins = batch.reset_BS[row, segment]
        kept = part[valid[part]]
        text = text_of(kept)
        if padding := len(part) - len(kept):
            text.append(f" + {padding} of padding", "dim italic")
        table.add_row(Text(f"{'● ' if begins else ''}{segment}", "bold" if begins else ""), text,
                      end_section=True)
    return table


def _text(tokens: np.ndarray, kinds: np.ndarray, loss: np.ndarray, encoder: Encoder) -> Text:
    """Runs of tokens of one kind in its style, underlined where the whole loss is taken."""
    t, text = encoder.tokenizer, Text()
    # Each mark is a run of its own.
    marks = {t.answer_id: "→", t.end_id: "■", t.unk_id: UNKNOWN}
    looks = [(kind, under, i if token in marks else -1) for i, (token, kind, under)
             in enumerate(zip(tokens.tolist(), kinds.tolist(), loss.tolist(), strict=True))]
    for start, stop in _runs(looks):
        kind, under, mark = looks[start]
        words = marks[int(tokens[start])] if mark >= 0 else t.decode(tokens[start:stop]).strip()
        text.append(" " if start and not words.startswith(CLINGING) else "")
        text.append(words, STYLES[kind] + (" underline" if under else ""))
    return text


def _runs(looks: Sequence) -> Iterator[tuple[int, int]]:
    """Where runs of equal elements begin and end."""
    borders = [i for i, look in enumerate(looks) if i == 0 or look != looks[i - 1]]
    yield from zip(borders, [*borders[1:], len(looks)], strict=True)


def _facts(batch: Batch, answer_id: int) -> str:
    answers = (batch.tokens_BL == answer_id).sum(axis=1)
    return f"samples and {answers.mean():.1f} answers ({answers.min()} to {answers.max()})"


EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--step", type=int, default=0, help="training step whose batch is shown")
    parser.add_argument("--rows", type=int, default=2, help="rows of the batch to show")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    show(files.load_config(args.config, overrides), args.step, args.rows)
    return 0
