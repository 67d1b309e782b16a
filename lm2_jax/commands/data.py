"""`lm2 data`: the batch of a step as text."""

import argparse

import numpy as np
from rich.table import Table
from rich.text import Text

from lm2_jax.commands import arguments
from lm2_jax.config import Config, files
from lm2_jax.data import sources
from lm2_jax.data.babilong import corpus
from lm2_jax.data.babilong.encoder import Encoder
from lm2_jax.data.babilong.kinds import kinds_of
from lm2_jax.errors import UserError
from lm2_jax.runtime.console import Console
from lm2_jax.types import Batch

STYLES = ("dim", "cyan", "yellow", "bold green")
LEGEND = ("prose", "fact", "question", "answer")
UNKNOWN = "◌"
CLINGING = tuple(".,;:!?)'’”")  # no blank before these


def show(config: Config, step: int, rows: int, console: Console | None = None) -> None:
    """Prints the first rows of a step's batch, segment by segment, and facts about the batch."""
    if step < 0:
        raise UserError(f"--step is {step}; it must be at least 0")
    console = console or Console()
    drawn_from = corpus.training(config, corpus.make_tokenizer(config.data, config.seed))
    source = sources.make_source(
        config.data, drawn_from, segment_length=config.model.segment_length, seed=config.seed,
        batch_size=config.train.batch_size, num_steps=config.train.num_steps)
    batch = source[step]
    console.print(Text.assemble(
        *((f"{name}  ", style) for name, style in zip(LEGEND, STYLES, strict=True)),
        ("loss weight 1", "underline"), f" (elsewhere {config.data.loss_on_all:g})  ",
        f"● sample begins  → answer mark  ■ end mark  {UNKNOWN} unknown word"))
    for row in range(min(rows, len(batch.tokens_BL))):
        console.print(_row(row, batch, drawn_from.encoder))
    console.print(_facts(step, batch, drawn_from.encoder.tokenizer.answer_id))


def _row(row: int, batch: Batch, encoder: Encoder) -> Table:
    """A line for each segment; a bullet where a sample begins."""
    S = batch.reset_BS.shape[1]
    tokens, valid = batch.tokens_BL[row], batch.valid_BL[row]
    kinds = kinds_of(tokens, encoder)
    weights = np.roll(batch.loss_weight_BL[row], 1)  # of predicting the token, not the next
    weights[0] = 0
    table = Table(title=f"row {row}", title_justify="left", title_style="bold", show_header=False,
                  padding=(0, 1))
    table.add_column(justify="right")
    table.add_column()
    for segment, part in enumerate(np.split(np.arange(len(tokens)), S)):
        begins = batch.reset_BS[row, segment]
        kept = part[valid[part]]
        text = _text(tokens[kept], kinds[kept], weights[kept] >= 1, encoder)
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
    borders = [i for i, look in enumerate(looks) if i == 0 or look != looks[i - 1]]
    for start, stop in zip(borders, [*borders[1:], len(looks)], strict=True):
        kind, under, mark = looks[start]
        words = marks[int(tokens[start])] if mark >= 0 else t.decode(tokens[start:stop]).strip()
        text.append(" " if start and not words.startswith(CLINGING) else "")
        text.append(words, STYLES[kind] + (" underline" if under else ""))
    return text


def _facts(step: int, batch: Batch, answer_id: int) -> str:
    B, S = batch.reset_BS.shape
    answers = (batch.tokens_BL == answer_id).sum(axis=1)
    return (f"step {step}: {B} rows of {S} x {batch.tokens_BL.shape[1] // S} tokens; a row has "
            f"{batch.reset_BS.sum() / B:.1f} samples and {answers.mean():.1f} answers "
            f"({answers.min()} to {answers.max()}); loss weight 1 on "
            f"{(batch.loss_weight_BL >= 1).mean():.1%}, padding {1 - batch.valid_BL.mean():.1%}")


EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--step", type=int, default=0, help="training step whose batch is shown")
    parser.add_argument("--rows", type=int, default=2, help="rows of the batch to show")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    show(files.load_config(args.config, overrides), args.step, args.rows)
    return 0
