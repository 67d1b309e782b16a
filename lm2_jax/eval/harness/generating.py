"""Generated texts, each after a context of any length, up to a stop string."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm2_jax.checkpoint.workdir import Run
from lm2_jax.generation.engine import Engine
from lm2_jax.generation.reading import Reading, places_for
from lm2_jax.generation.sampling import Sampling
from lm2_jax.generation.text import Writer
from lm2_jax.model.lm import LanguageModel


class Options(NamedTuple):
    """How a task wants its texts generated.

    Attributes:
      until: the text ends before the first of these strings.
      max_new_tokens: of a text.
      sampling: how tokens are chosen.
    """

    until: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling


def generate(model: LanguageModel, run: Run, contexts: Sequence[np.ndarray], options: Options,
             batch_size: int, wipe: bool = False) -> Iterator[tuple[int, str]]:
    """Yields the number of a context and the text after it; the longest contexts come first.

    Args:
      contexts: int32 tokens, at least one each.
      batch_size: contexts that are read at a time.
      wipe: put the memory back to the initial state at every segment.
    """
    engine = Engine(model, run.variables, pad_id=run.tokenizer.pad_id)
    order = sorted(range(len(contexts)), key=lambda number: -len(contexts[number]))
    for first in range(0, len(order), batch_size):
        numbers = order[first:first + batch_size]
        prompts = [contexts[number] for number in numbers]
        places = places_for((len(prompts[0]) - 1) // model.config.segment_length,
                            options.max_new_tokens, model.config.segment_length)
        reading = engine.read(prompts, wipe=wipe, batch_size=batch_size, places=places)
        texts = _until_all_stop(engine, reading, options, run, numbers, wipe)
        yield from zip(numbers, texts, strict=True)


def _until_all_stop(engine: Engine, reading: Reading, options: Options, run: Run,
                    numbers: Sequence[int], wipe: bool) -> list[str]:
    """The text of each row of a reading.

    Args:
      numbers: of the requests; they are the seeds, so that repeated requests differ.
    """
    writers = [Writer(run.tokenizer, options.until) for _ in numbers]
    texts, going = [""] * len(numbers), set(range(len(numbers)))
    for token_B in engine.generate(reading, options.sampling, options.max_new_tokens,
                                   seeds=numbers, wipe=wipe):
        for row in sorted(going):
            if (token := int(token_B[row])) not in run.tokenizer.stop_ids:
                texts[row] += writers[row].add(token)
            if token in run.tokenizer.stop_ids or writers[row].stopped:
                going.remove(row)
        if not going:
            break
    return [text + writer.close() for text, writer in zip(texts, writers, strict=True)]
