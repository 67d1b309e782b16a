"""`lm2 COMMAND`: parses, then calls one function."""

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence

from lm2_jax.errors import UserError

DESCRIPTION = "Memory-augmented language models in JAX."
CONFIG_HELP = """Any key of the config may be given as --config.KEY=VALUE, for example
--config.train.num_steps=20 --config.seed=1 --config.model.memory.num_slots=32."""
REPORT_HELP = """Writes report.md (a table of tasks by lengths, the runs, what differs between
their configs), accuracy.png and capabilities.png. Runs that differ in the seed alone are one
model: their mean stands with the lowest and the highest. The best constant answer stands beside
every accuracy. Example: lm2 report runs/lm2_seed0 runs/lm2_seed1 runs/llama --names=lm2,llama
--out=runs/report"""


HOSTS_HELP = """Several processes: --coordinator, --num-processes and --process-id, or
LM2_COORDINATOR, LM2_NUM_PROCESSES and LM2_PROCESS_ID; SLURM, a TPU pod and GKE are recognised
(LM2_DISTRIBUTED=1 insists, 0 forbids). LM2_CONNECT_TIMEOUT, LM2_HEARTBEAT_TIMEOUT: seconds."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; a mistake of the user's is one line on stderr and exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if not argv or argv[0] in ("help", "-h", "--help"):
        parser.print_help()
        return 0
    args, rest = parser.parse_known_args(argv)
    try:
        _expand_paths(args)
        return args.run(args, _overrides(args, rest))
    except UserError as error:
        if os.environ.get("LM2_TRACEBACK"):
            raise
        return _failed(args, str(error), 2)
    except Exception as error:
        if not _several(args):
            raise
        traceback.print_exc()
        return _failed(args, f"{type(error).__name__}: {error}".split("\n")[0], 1)
    except KeyboardInterrupt:
        return _failed(args, "interrupted; the same command goes on from the last checkpoint", 130)


def _failed(args: argparse.Namespace, reason: str, status: int) -> int:
    print(f"lm2 {args.command}: {reason}", file=sys.stderr)
    if _several(args):
        from lm2_jax.runtime import processes

        processes.abort(reason, status)
    return status


def _several(args: argparse.Namespace) -> bool:
    return "coordinator" in args and "lm2_jax.runtime.processes" in sys.modules


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lm2", description=DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def bare_command(name: str, help: str, run, epilog: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, epilog=epilog,
                                  allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    def command(name: str, help: str, run) -> argparse.ArgumentParser:
        sub = bare_command(name, help, run, CONFIG_HELP)
        sub.add_argument("--config", required=True, help="a Python file with get_config()")
        return sub

    def on_hosts(sub: argparse.ArgumentParser) -> None:
        sub.epilog += "\n" + HOSTS_HELP
        sub.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 runs")
        sub.add_argument("--num-processes", type=int, metavar="N", help="processes of the run")
        sub.add_argument("--process-id", type=int, metavar="I", help="of this one, from 0")

    train = command("train", "Train in a workdir (or go on there), then evaluate.", _train)
    train.add_argument("--workdir", required=True, help="folder of the run; made if need be")
    train.add_argument("--profile", metavar="START:END", help="trace these steps to W/profile")
    train.add_argument("--accept-changes", action="store_true",
                       help="go on although data, seed, batch size or optimizer differ")
    train.add_argument("--init-from", default="", metavar="WORKDIR[:STEP]",
                       help="begin a new run with the weights of another one")
    on_hosts(train)
    evaluate = command("eval", "Evaluate a checkpoint: table, results.json, plots.", _eval)
    evaluate.add_argument("--workdir", required=True, help="folder of the run")
    evaluate.add_argument("--step", type=int, help="checkpoint to take; the newest if not given")
    on_hosts(evaluate)
    gates = command("gates", "Show what a trained LM2's gates do: table, gates.png.", _gates)
    gates.add_argument("--workdir", required=True, help="folder of the run")
    gates.add_argument("--step", type=int, help="checkpoint to take; the newest if not given")
    gates.add_argument("--samples", type=int, default=20,
                       help="held-out samples of each task and length (%(default)s)")
    report = bare_command("report", "Compare evaluated workdirs: report.md, plots.", _report,
                          REPORT_HELP)
    report.add_argument("workdirs", nargs="+", metavar="WORKDIR",
                        help="folders of evaluated runs, or copies of their eval folders")
    report.add_argument("--out", default="report", metavar="FOLDER",
                        help="where the report goes (%(default)s)")
    report.add_argument("--metric", default="exact_match", choices=("exact_match", "accuracy"),
                        help="accuracy is the benchmark's own metric (%(default)s)")
    report.add_argument("--names", default="", metavar="A,B",
                        help="a name for each model, in order of its first workdir")
    report.add_argument("--paper", action="store_true",
                        help="put the LM2 paper's own figures beside, marked as not reproduced")
    compile_ = command("compile", "Compile the steps of a config for devices that need not be "
                       "there: memory, FLOPs, collectives.", _compile)
    compile_.add_argument("--topology", required=True, metavar="NAME",
                          help="a TPU slice as v5e:4x4 (needs jax[tpu]), cpu:8, or gpu:8 (lowered)")
    compile_.add_argument("--step", default="both", choices=("train", "eval", "both"),
                          help="what to compile (%(default)s)")
    compile_.add_argument("--out", metavar="FILE",
                          help="report: .json, or .md with the table of all reports beside it")
    data = command("data", "Show training samples of a config as text.", _data)
    data.add_argument("--step", type=int, default=0, help="training step whose batch is shown")
    data.add_argument("--rows", type=int, default=2, help="rows of the batch to show")
    bench = command("bench", "Measure: data = batches without a model, eval = rate and memory of "
                    "an untrained model over the length of the context.", _bench)
    bench.add_argument("what", choices=("data", "eval"), help="what to measure")
    bench.add_argument("--seconds", type=float, default=10.0,
                       help="data: how long to measure (%(default)s)")
    bench.add_argument("--lengths", default="64k,1M,10M", metavar="A,B",
                       help="eval: tokens of the samples (%(default)s)")
    return parser


def _expand_paths(args: argparse.Namespace) -> None:
    """Replaces `~` in the arguments that are paths; refuses URLs."""
    from lm2_jax.runtime import paths

    for name in ("config", "workdir", "workdirs", "init_from", "out"):
        value = getattr(args, name, None)
        if isinstance(value, list):
            setattr(args, name, [str(paths.local(path)) for path in value])
        elif value:
            setattr(args, name, str(paths.local(value)))


def _overrides(args: argparse.Namespace, rest: Sequence[str]) -> dict[str, str]:
    """--config.a.b=v as {"a.b": "v"}; anything else is refused, and all where no config is."""
    if rest and "config" not in args:
        raise UserError(f"unknown argument {rest[0]} (lm2 {args.command} --help lists them)")
    overrides = {}
    for argument in rest:
        key, equals, value = argument.partition("=")
        if not key.startswith("--config.") or not equals:
            raise UserError(f"unknown argument {argument}; a key of the config is given as "
                             "--config.KEY=VALUE (lm2 help lists the commands)")
        overrides[key.removeprefix("--config.")] = value
    return overrides


# Imports wait until a command runs: `lm2 help` need not load jax.


def _train(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from lm2_jax.checkpoint.checkpointer import SaveError
    from lm2_jax.config.files import load_config

    begun = time.perf_counter()
    config = load_config(args.config, overrides)
    finish = _join(args)
    from lm2_jax.commands.train import Options, train
    from lm2_jax.training import profile
    from lm2_jax.training.loop import NonFiniteError

    options = Options(profile.parse(args.profile) if args.profile else None,
                      args.accept_changes, args.init_from)
    try:
        train(config, args.workdir, options=options, begun=begun)
    except NonFiniteError as error:
        return _failed(args, f"{error}. Stopped; the checkpoints in {args.workdir} are from "
                             "before.", 1)
    except SaveError as error:
        return _failed(args, f"{error}. Once that is put right, the same command goes on", 1)
    finish()
    return 0


def _eval(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from lm2_jax.config.files import load_config

    config = load_config(args.config, overrides)
    finish = _join(args)
    from lm2_jax.commands.evaluate import evaluate
    from lm2_jax.runtime.preemption import Preempted

    try:
        evaluate(config, args.workdir, args.step)
    except Preempted:
        print(f"lm2 eval: SIGTERM: what was answered is kept in {args.workdir}; the same command "
              "goes on from there", file=sys.stderr)
        finish()
        return 128 + signal.SIGTERM
    finish()
    return 0


def _join(args: argparse.Namespace):
    """Joins the processes of the run, if there are several; returns what to call at the end.

    What computes is imported after it: some libraries touch the devices as they are loaded.
    """
    from lm2_jax.runtime import processes

    place = processes.find_process_info(args.coordinator, args.num_processes, args.process_id)
    timeouts = {name: float(os.environ[variable]) for name, variable in
                (("connect_timeout", "LM2_CONNECT_TIMEOUT"),
                 ("heartbeat_timeout", "LM2_HEARTBEAT_TIMEOUT")) if os.environ.get(variable)}
    processes.initialize(place, command=f"lm2 {args.command}", **timeouts)
    return processes.shutdown


def _gates(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from lm2_jax.commands.gates import show
    from lm2_jax.config.files import load_config

    show(load_config(args.config, overrides), args.workdir, args.step, args.samples)
    return 0


def _report(args: argparse.Namespace, _: dict[str, str]) -> int:
    from lm2_jax.commands.report import report

    names = [name.strip() for name in args.names.split(",") if name.strip()]
    report(args.workdirs, args.out, args.metric, names, args.paper)
    return 0


def _compile(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from lm2_jax.commands.compile import STEPS, compile_steps
    from lm2_jax.config.files import load_config

    fits = compile_steps(load_config(args.config, overrides), args.config, args.topology,
                         STEPS if args.step == "both" else (args.step,), args.out)
    return 0 if fits else 1


def _data(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from lm2_jax.commands.data import show
    from lm2_jax.config.files import load_config

    show(load_config(args.config, overrides), args.step, args.rows)
    return 0


def _bench(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from lm2_jax.config.files import load_config

    config = load_config(args.config, overrides)
    if args.what == "data":
        from lm2_jax.bench import data

        data.run(config, args.seconds)
        return 0
    from lm2_jax.bench.eval import run

    run(config, [length.strip() for length in args.lengths.split(",") if length.strip()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
