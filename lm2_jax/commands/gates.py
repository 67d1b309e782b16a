"""`lm2 gates`: measures the gates of a trained LM2 while it reads held-out samples."""

import argparse
import dataclasses
import json
from pathlib import Path

from lm2_jax.commands import arguments, evaluate
from lm2_jax.config import Config
from lm2_jax.errors import UserError
from lm2_jax.eval import gates
from lm2_jax.model.lm import LanguageModel
from lm2_jax.report import gates as report
from lm2_jax.runtime import compilation_cache, paths
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.files import write_text


def show(config: Config, workdir: str | Path, step: int | None = None, num_samples: int = 20,
         out: str | Path | None = None, console: Console | None = None) -> list[gates.Gates]:
    """Measures the gates over held-out samples, prints a table, writes gates.json and gates.png.

    Args:
      num_samples: of each task and length of `config.eval`.
      out: folder of the two files; `workdir/eval` if None.

    Raises:
      UserError: the model has no LM2 memory, or there are fewer than `num_samples` samples.
    """
    console = console or Console()
    if num_samples < 1:
        raise UserError(f"--samples is {num_samples}; it must be at least 1")
    # The evaluator refuses more samples than eval.indices has when it is built.
    config = dataclasses.replace(config, eval=dataclasses.replace(
        config.eval, num_samples=num_samples, during_training=0))
    evaluator, params, step = evaluate.open_workdir(config, workdir, step)
    model = evaluator.config.model
    if model.memory.kind != "lm2" or not model.memory.num_layers:
        raise UserError(f"{workdir} has no LM2 memory, so there are no gates to show (memory.kind "
                        f"is {model.memory.kind}, memory.num_layers {model.memory.num_layers})")
    samples = [gates.tokens_and_kinds(prompt, evaluator.prompting.encoder) for cell in
               evaluator.prompts(num_samples).values() for prompt in cell[:num_samples]]
    # Outside the mesh: a batch of one row cannot be laid over several devices.
    found = gates.measure(LanguageModel(model), params, samples, evaluator.tokens.pad_id)
    folder = paths.of(workdir) / "eval" if out is None else paths.of(out)
    facts = [dataclasses.asdict(block) for block in found]
    write_text(folder / "gates.json", json.dumps(facts, indent=2) + "\n")
    longest = max(len(tokens) for tokens, _ in samples)
    what = f"{len(samples)} samples of up to {longest:,} tokens"
    report.plot_gates(found, folder / "gates.png", model.segment_length, longest,
                      f"step {step}; {what}")
    console.print(report.table(found).terminal("Gates, from 0 (closed) to 1 (open)"))
    console.print(report.keeping_table(found).terminal("How long the memory keeps a value"))
    console.print(f"{what}; quantiles are over slots and dimensions (of u: heads), each averaged "
                  "over segments.\nAfter its half-life, what is left of a value is less than what "
                  "was written over it.")
    for name in ("gates.json", "gates.png"):
        console.print(str(folder / name))
    return found


EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    arguments.add_checkpoint(parser)
    parser.add_argument("--out", metavar="FOLDER",
                        help="folder of gates.json and gates.png (WORKDIR/eval)")
    parser.add_argument("--samples", type=int, default=20,
                        help="held-out samples of each task and length (%(default)s)")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    show(arguments.load_config(args, overrides), args.workdir, args.step, args.samples,
         args.out)
    return 0
