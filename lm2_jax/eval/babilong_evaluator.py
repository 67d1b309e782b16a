"""The BABILong evaluation of a config: held-out prompts, answers, results."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from lm2_jax.config import Config
from lm2_jax.data.babilong import corpus, prompting
from lm2_jax.data.babilong.samples import Prompt
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.eval import babilong, identity, results
from lm2_jax.eval.evaluator import DEFAULT, Progress
from lm2_jax.eval.journal import Journal
from lm2_jax.eval.results import Row
from lm2_jax.generation.engine import Engine
from lm2_jax.model.lm import LanguageModel
from lm2_jax.types import Params


class BabilongEvaluator:
    """Accuracy on BABILong samples over tasks and context lengths; an `Evaluator`.

    The prompts are drawn or read once, when they are first needed.
    """

    name = DEFAULT

    def __init__(self, config: Config, tokens: Tokenizer, mesh: Mesh):
        self.config, self.tokens, self.mesh = config, tokens, mesh
        self.corpus = corpus.held_out(config, tokens)
        self.prompting = prompting.make(config.eval, self.corpus.encoder)
        self._prompts: dict[int, dict[tuple[str, str], list[Prompt]]] = {}
        # Reports what cannot be read or drawn before a training begins; any index may be at fault.
        self.prompts(config.eval.num_samples if config.eval.indices else 1)

    def prompts(self, num_samples: int) -> dict[tuple[str, str], list[Prompt]]:
        """The prompts of each task and length: so many, drawn once, or the whole sample file."""
        count = 0 if babilong.asks_whole_file(self.config.eval) else num_samples
        if count not in self._prompts:
            self._prompts[count] = babilong.cells(self.config, self.corpus, self.prompting,
                                                  num_samples)
        return self._prompts[count]

    @property
    def empty_key(self) -> str:
        return babilong.empty_key(self.config.eval)

    @property
    def notes(self) -> list[str]:
        """Names the tasks that `eval.indices` lacks."""
        indices = self.config.eval.indices
        drawn = [source.task for source in self.corpus.sources if indices and not source.selected]
        return [f"{indices} has no indices of {', '.join(drawn)}: their samples are drawn"] \
            if drawn else []

    def tokens_to_read(self, journal: Journal) -> tuple[int, int]:
        """Tokens of all prompts in all modes, and those of the prompts that were answered."""
        e = self.config.eval
        return babilong.tokens_to_read(self.prompts(e.num_samples), e.memory, e, journal)

    def run(self, params: Params, modes: Sequence[str] | None = None,
            num_samples: int | None = None, *, journal: Journal | None = None,
            progress: Progress | None = None, between: Callable[[], None] | None = None
            ) -> Iterator[tuple[Row, list[babilong.Prediction]]]:
        """Yields a row and its predictions for each task, length and mode.

        Args:
          modes: of "carried" and "reset"; None = `eval.memory`.
          num_samples: of each task and length; None = `eval.num_samples`.
        """
        e = self.config.eval
        engine = Engine(LanguageModel(self.config.model), params,
                        pad_id=self.tokens.pad_id, stop_ids=self.tokens.stop_ids)
        with jax.set_mesh(self.mesh):
            yield from babilong.evaluate(
                engine, self.prompts(num_samples or e.num_samples), e, self.tokens.decode,
                e.memory if modes is None else modes, progress=progress, journal=journal,
                between=between)

    def identity(self, params: Params, step: int) -> dict[str, object]:
        """Everything that the answers depend on; every process must call this."""
        prompts = identity.prompts_digest(self.prompts(self.config.eval.num_samples))
        return identity.identity(self.config, step, params, self.tokens.digest,
                                 {"prompts": prompts})

    def remove(self, folder: Path) -> None:
        """Removes results and predictions."""
        results.remove_results(folder)

    def write(self, folder: Path, rows: Sequence[tuple[Row, list[babilong.Prediction]]]) -> None:
        """Writes the predictions of the last row, and results.json."""
        row, predictions = rows[-1]
        results.write_predictions(folder, row.task, row.length, row.memory, predictions,
                                  self.prompting.prompt(row.task), self.config.eval.max_new_tokens)
        results.write_results(folder, [row for row, _ in rows])
