"""`lm2 gates`: how open the gates of a trained LM2 stand while it reads held-out samples."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from lm2_jax.commands import evaluate
from lm2_jax.config import Config
from lm2_jax.data.babilong.kinds import QUESTION, kinds_of
from lm2_jax.data.babilong.mixing import Encoder
from lm2_jax.data.babilong.samples import Prompt
from lm2_jax.errors import UserError
from lm2_jax.eval import gates
from lm2_jax.model.lm import LanguageModel
from lm2_jax.report import gates as report
from lm2_jax.runtime.files import replacing


def show(config: Config, workdir: str | Path, step: int | None = None, num_samples: int = 20,
         console: Console | None = None) -> list[gates.Gates]:
    """Measures over so many samples of each task and length of `config.eval`, prints a table,
    writes `workdir/eval/gates.json` and `gates.png`.

    Raises:
      ValueError: the model has no gates, or `num_samples` is not a number from 1.
    """
    console = console or Console()
    if num_samples < 1:
        raise UserError(f"--samples is {num_samples}; it must be at least 1")
    evaluator, params, step = evaluate.open_workdir(config, workdir, step)
    model = evaluator.config.model
    if model.memory.kind != "lm2" or not model.memory.num_layers:
        raise UserError(f"{workdir} has no LM2 memory, whose gates could be shown (memory.kind "
                         f"{model.memory.kind}, memory.num_layers {model.memory.num_layers})")
    samples = [_sample(prompt, evaluator.prompting.encoder) for cell in
               evaluator.prompts(num_samples).values() for prompt in cell[:num_samples]]
    with jax.set_mesh(evaluator.mesh):
        found = gates.measure(LanguageModel(model), params, samples, evaluator.tokens.pad_id)
    folder = Path(workdir) / "eval"
    with replacing(folder / "gates.json") as partial:
        text = json.dumps([dataclasses.asdict(block) for block in found], indent=2)
        partial.write_text(text + "\n", "utf-8")
    longest = max(len(tokens) for tokens, _ in samples)
    what = f"{len(samples)} samples of up to {longest:,} tokens"
    report.plot_gates(found, folder / "gates.png", longest, f"step {step}; {what}")
    console.print(report.gates_table(found))
    console.print(f"{what}; input and forget gates: over slots and dimensions", highlight=False)
    for name in ("gates.json", "gates.png"):
        console.print(str(folder / name), highlight=False, soft_wrap=True)
    return found


def _sample(prompt: Prompt, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """Its tokens and their kinds; what stands behind the context is the question."""
    tokens = prompt.tokens[:]
    kinds = kinds_of(tokens, encoder)
    kinds[len(tokens) - len(prompt.tokens.parts[-1]):] = QUESTION
    return tokens, kinds
