"""`lm2 eval --harness`: tasks of lm-evaluation-harness on the model of a workdir."""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.errors import UserError
from lm2_jax.eval import identity
from lm2_jax.eval.harness import running
from lm2_jax.report import harness as report
from lm2_jax.report import provenance
from lm2_jax.runtime import locks, paths, processes
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.files import scratch, write_text

FOLDER = "harness"
RESULTS = "results.json"


def evaluate(workdir: str | Path, tasks: Sequence[str], *, step: int | None = None,
             out: str | Path | None = None, console: Console | None = None,
             include: Sequence[str | Path] = (), limit: float | None = None,
             num_fewshot: int | None = None, chat: bool = False, log_samples: bool = False,
             metadata: dict[str, Any] | None = None, model: dict[str, Any] | None = None
             ) -> dict[str, Any]:
    """Evaluates a checkpoint on tasks of the harness; every process returns the results.

    An evaluation that was interrupted goes on where it was: the answers so far are kept beside the
    results until it ends, unless there are several processes.

    Args:
      tasks: names of tasks or groups of lm-evaluation-harness, or of this package.
      step: of the checkpoint; None for the newest.
      out: folder of the results; None for `workdir/eval`. They are in its subfolder `harness`.
      include: folders with more task files.
      limit: number of samples of each task, or the fraction of them if it is less than 1.
      num_fewshot: examples before each question; None for what each task says.
      chat: put prompts as chats, by the chat template that the model came with.
      log_samples: also write each sample with its prompt and answer, to samples_TASK.jsonl.
      metadata: values for the functions of tasks that load data.
      model: arguments of `lm2_jax.eval.harness.model.LM2`.

    Raises:
      UserError: lm_eval is not installed, or a task or its data are not there.
    """
    found = running.find(tasks, include, metadata)
    from lm2_jax.eval.harness.model import LM2

    console = console or Console(quiet=not processes.is_primary())
    folder = paths.of(out or paths.of(workdir) / "eval") / FOLDER
    locks.require_writable(folder.parent, "--out")
    lm = LM2(workdir, step, **(model or {}))
    options = dict(limit=limit, num_fewshot=num_fewshot, apply_chat_template=chat)
    digest = _digest(lm)
    processes.require_same({"the model": digest, "the tasks": found.names, **options})
    console.print(f"evaluating {workdir} at step {lm.run.step} on {', '.join(tasks)}")
    with locks.locked(folder, "an evaluation", "--out"):
        kept = scratch(folder, once=True) / "answers" / digest  # a data base
        results = running.run(
            lm, found, **options, fewshot_as_multiturn=chat, log_samples=log_samples,
            batch_size=lm.batch_size, use_cache=None if jax.process_count() > 1 else str(kept))
        if processes.is_primary():
            _write(folder, lm, results)
            for path in kept.parent.glob("*"):
                path.unlink()
    if processes.is_primary():
        _show(results, folder, console)
    return results


def _digest(lm) -> str:
    """A digest of all that the answers to given requests depend on."""
    facts = [identity.weights_digest(lm.run.variables), lm.run.tokenizer.digest, lm.wipe,
             lm.model.config.dtype, lm.max_gen_toks, identity.code_digest()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _write(folder: Path, lm, results: dict[str, Any]) -> None:
    """Writes results.json, provenance.json and, if there are samples, a file of each task's."""
    from lm_eval.utils import handle_non_serializable

    for task, samples in results.pop("samples", {}).items():
        write_text(folder / f"samples_{task}.jsonl", "".join(
            json.dumps(sample, default=handle_non_serializable, ensure_ascii=False) + "\n"
            for sample in samples))
    write_text(folder / RESULTS, json.dumps(results, indent=2, default=handle_non_serializable,
                                            ensure_ascii=False) + "\n")
    provenance.write(folder, lm.run.config, lm.run.step,
                     sum(leaf.size for leaf in jax.tree.leaves(lm.run.variables)))


def _show(results: dict[str, Any], folder: Path, console: Console) -> None:
    shown = report.table(results).fitting(console.width, "std. error", "n-shot")
    console.print(shown.terminal("lm-evaluation-harness"))
    if mmlu := report.mmlu(results):
        console.print(mmlu.terminal("MMLU by subject group and by level"))
    console.print(str(folder / RESULTS))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--harness and what goes with it."""
    group = parser.add_argument_group("with --harness (needs no --config)")
    group.add_argument("--harness", metavar="TASKS", help="tasks of lm-evaluation-harness, such as "
                       "mmlu,arc_easy, in place of BABILong and perplexity")
    group.add_argument("--limit", type=float, metavar="N",
                       help="samples of each task; a fraction of them if it is less than 1")
    group.add_argument("--num-fewshot", type=int, metavar="N",
                       help="examples before each question; by default what the task says")
    group.add_argument("--batch-size", metavar="N",
                       help="prompts that are read at a time (8)")
    group.add_argument("--memory", choices=("carried", "reset"), help="reset: the memory is reset "
                       "at each segment, as a control (carried)")
    group.add_argument("--dtype", choices=("float32", "bfloat16"),
                       help="compute dtype; by default that of the run")
    group.add_argument("--apply-chat-template", action="store_true",
                       help="put prompts as chats, by the template that the model came with")
    group.add_argument("--include-path", action="append", default=[], metavar="FOLDER",
                       help="a folder with more task files; may be given again")
    group.add_argument("--metadata", action="append", default=[], metavar="KEY=VALUE",
                       help="a value for tasks that make their data, such as samples=FILE for "
                            "lm2_babilong; may be given again")
    group.add_argument("--log-samples", action="store_true",
                       help="also write each sample with its prompt and answer")


OPTIONS = ("limit", "num_fewshot", "batch_size", "memory", "dtype", "apply_chat_template",
           "include_path", "metadata", "log_samples")
_MESH = "mesh."


def require_harness(args: argparse.Namespace) -> None:
    """Raises a UserError if an argument is given that only --harness takes."""
    if given := [name for name in OPTIONS if getattr(args, name)]:
        raise UserError(f"--{given[0].replace('_', '-')} is an argument of --harness=TASKS")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    other = [key for key in overrides if not key.startswith(_MESH)]
    if args.config or other:
        raise UserError(f"--config{'.' * bool(other)}{''.join(other[:1])} has no effect with "
                        "--harness, which takes the model of --workdir as it is (of the config "
                        "only --config.mesh... can be given); leave it out")
    if wrong := [item for item in args.metadata if "=" not in item]:
        raise UserError(f"--metadata={wrong[0]}: it must be KEY=VALUE")
    limit = int(args.limit) if args.limit and args.limit >= 1 else args.limit
    mesh = files.from_dict({"mesh": {key.removeprefix(_MESH): size for key, size in
                                     overrides.items()}}).mesh
    evaluate(args.workdir, arguments.names(args.harness), step=args.step, out=args.out,
             include=[paths.local(path, "the folder of tasks") for path in args.include_path],
             limit=limit,
             num_fewshot=args.num_fewshot, chat=args.apply_chat_template,
             log_samples=args.log_samples,
             metadata=dict(item.partition("=")[::2] for item in args.metadata),
             model={"batch_size": args.batch_size or "auto", "memory": args.memory or "carried",
                    "dtype": args.dtype or "", **dataclasses.asdict(mesh)})
