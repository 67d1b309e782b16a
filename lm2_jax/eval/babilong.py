"""BABILong evaluation: accuracy over tasks and context lengths, the memory carried or wiped."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm2_jax.config import Config, EvalConfig
from lm2_jax.data import samples
from lm2_jax.data.asking import Asking
from lm2_jax.data.corpus import Corpus
from lm2_jax.data.samples import Prompt
from lm2_jax.eval import metrics
from lm2_jax.eval.results import Row
from lm2_jax.eval.stream import Streamer


class Prediction(NamedTuple):
    """A line of the benchmark's own results."""

    target: str
    output: str
    question: str


def asks_whole_file(config: EvalConfig) -> bool:
    """Whether the samples are those of a file, whatever tasks, lengths and number are set."""
    return bool(config.samples) and not Path(config.samples).is_dir()


def cells(config: Config, corpus: Corpus, asking: Asking, num_samples: int
          ) -> dict[tuple[str, str], list[Prompt]]:
    """The prompts of each (task, length): from the sample file, the published set, or drawn."""
    e = config.eval
    if asks_whole_file(e):
        found: dict[tuple[str, str], list[Prompt]] = {}
        for prompt in samples.read_file(e.samples, asking):
            found.setdefault((prompt.task, prompt.length), []).append(prompt)
        return found
    if e.samples:
        return {(task, length): samples.read_cell(e.samples, task, length, num_samples, asking)
                for task in e.tasks or config.data.tasks for length in e.lengths}
    return {(source.task, length): [
        samples.draw(source, length, index, e, asking, corpus.background,
                     config.model.segment_length) for index in range(num_samples)]
        for source in corpus.sources for length in e.lengths}


def evaluate(streamer: Streamer, prompts: dict[tuple[str, str], list[Prompt]], config: Config,
             decode: Callable[[Iterable[int]], str], modes: Sequence[str],
             progress: Callable[..., None] | None = None
             ) -> Iterator[tuple[Row, list[Prediction]]]:
    """Asks every prompt; yields a row and its predictions for each task, length and mode.

    Args:
      decode: ids to text.
      modes: of "carried" and "reset" (the memory wiped at every segment).
      progress: called with task, length, memory, done, hits after each batch.
    """
    for ((task, length), cell), mode in itertools.product(prompts.items(), modes):
        predictions: list[Prediction] = []
        for start in range(0, len(cell), config.eval.batch_size):
            batch = cell[start:start + config.eval.batch_size]
            # A short last batch is filled up, so that one compilation serves all.
            tokens = [p.tokens for p in batch]
            tokens += tokens[-1:] * (config.eval.batch_size - len(batch))
            answers = streamer.answer(tokens, config.eval.max_new_tokens, wipe=mode == "reset")
            predictions += [Prediction(p.target, decode(ids).strip(), p.question)
                            for p, ids in zip(batch, answers, strict=False)]
            hits = sum(metrics.exact_match(p.target, p.output) for p in predictions)
            if progress:
                progress(task=task, length=length, memory=mode, done=len(predictions), hits=hits)
        yield _row(task, length, mode, cell, predictions, config.model.segment_length), predictions


def _row(task: str, length: str, mode: str, cell: list[Prompt], predictions: list[Prediction],
         segment_length: int) -> Row:
    tokens = np.array([len(p.tokens) for p in cell])
    return Row(
        task=task, length=length, tokens=float(tokens.mean()),
        segments=float(np.ceil(tokens / segment_length).mean()), memory=mode, n=len(cell),
        exact_match=float(np.mean([metrics.exact_match(p.target, p.output)
                                   for p in predictions])),
        accuracy=float(np.mean([metrics.babilong_correct(task, p.target, p.output, p.question)
                                for p in predictions])),
        constant_answer=metrics.constant_answer([p.target for p in cell])[1],
        unscorable=sum(not metrics.scorable(task, p.target, p.question) for p in cell))
