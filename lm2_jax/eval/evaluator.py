"""Held-out prompts of a config, and the model that answers them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from lm2_jax.config import Config
from lm2_jax.data.babilong import corpus, prompting
from lm2_jax.data.babilong.samples import Prompt
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.eval import babilong, identity
from lm2_jax.eval.journal import UNFINISHED, Journal
from lm2_jax.eval.results import Row
from lm2_jax.eval.stream import Streamer
from lm2_jax.model.lm import LanguageModel
from lm2_jax.runtime import processes
from lm2_jax.types import Params


class Evaluator:
    """Held-out prompts, drawn once, and what answers them."""

    def __init__(self, config: Config, tokens: Tokenizer, mesh: Mesh):
        self.config, self.tokens, self.mesh = config, tokens, mesh
        self._corpus = corpus.held_out(config, tokens)
        self.asking = prompting.make(config.eval, self._corpus.encoder)
        self._prompts: dict[int, dict[tuple[str, str], list[Prompt]]] = {}
        # What cannot be read or drawn is said before the training; each index may be one.
        self.prompts(config.eval.num_samples if config.eval.indices else 1)

    def prompts(self, num_samples: int) -> dict[tuple[str, str], list[Prompt]]:
        """The prompts of each task and length: so many, drawn once, or the whole sample file."""
        count = 0 if babilong.asks_whole_file(self.config.eval) else num_samples
        if count not in self._prompts:
            self._prompts[count] = babilong.cells(self.config, self._corpus, self.asking,
                                                  num_samples)
        return self._prompts[count]

    def drawn_beside_indices(self) -> list[str]:
        """The tasks that `eval.indices` does not name, whose samples are drawn as without it."""
        return [source.task for source in self._corpus.sources
                if self.config.eval.indices and not source.asked]

    def run(self, params: Params, modes: Sequence[str], num_samples: int, **options
            ) -> Iterator[tuple[Row, list[babilong.Prediction]]]:
        """Rows and predictions, one task, length and mode after another; options as those of
        `babilong.evaluate`."""
        streamer = Streamer(LanguageModel(self.config.model), params,
                            pad_id=self.tokens.pad_id, end_id=self.tokens.end_id)
        with jax.set_mesh(self.mesh):
            yield from babilong.evaluate(streamer, self.prompts(num_samples), self.config.eval,
                                         self.tokens.decode, modes, **options)

    def identity(self, params: Params, step: int) -> dict[str, object]:
        """All that the answers to the configured number of samples depend on; every process must
        call this."""
        return identity.identity(self.config, step, params, self.tokens.digest,
                                 self.prompts(self.config.eval.num_samples))

    def journal(self, folder: Path, params: Params, step: int) -> Journal:
        """The journal of an evaluation with the configured number of samples."""
        found = self.identity(params, step)
        # All processes resume from the same answers; one of them adds to the file.
        return processes.primary_first(lambda: Journal(
            folder / UNFINISHED, found, adds=processes.is_primary()))
