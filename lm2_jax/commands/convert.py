"""`lm2 convert`: models from and to the transformers library."""

import argparse
from pathlib import Path

import jax

from lm2_jax import partition
from lm2_jax.commands import arguments
from lm2_jax.config import Config
from lm2_jax.convert import exporting, importing
from lm2_jax.errors import UserError
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.report import provenance
from lm2_jax.runtime import paths
from lm2_jax.runtime.console import Console

EPILOG = """from-hf FOLDER --workdir=W imports a Llama (config.json, safetensors, tokenizer.json)
into a new workdir; to-hf FOLDER --workdir=W exports a workdir's model to such a folder. Llamas are
Llama 2 to 3.2, SmolLM2, Mistral without a sliding window, and what else is one by its config.json.
Other models are refused with the reason: """ + ", ".join(
    f"{name} ({why})" for name, why in importing.llama.OTHERS.items()) + "."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("direction", choices=("from-hf", "to-hf"))
    parser.add_argument("folder", help="Hugging Face model folder; to-hf creates it")
    arguments.add_checkpoint(parser)
    parser.add_argument("--segment-length", type=int, default=0, metavar="T",
                        help="from-hf: tokens of a segment; by default the context that the model "
                             f"was trained with, at most {importing.llama.LONGEST_SEGMENT}")
    parser.add_argument("--dtype", default="", choices=tuple(exporting.TORCH_NAMES.values()),
                        help="to-hf: of all tensors; by default those that were converted, and "
                             "float32 after training")


def run(args: argparse.Namespace, _: dict[str, str]) -> int:
    workdir, folder = paths.for_checkpoints(args.workdir), paths.of(args.folder)
    others = {"from-hf": ("step", "dtype"), "to-hf": ("segment_length",)}[args.direction]
    if given := [name for name in others if getattr(args, name)]:
        raise UserError(f"--{given[0].replace('_', '-')} is not an argument of {args.direction}")
    if args.direction == "from-hf":
        _from_hf(folder, workdir, args.segment_length)
    else:
        done = exporting.to_hf(workdir, folder, args.step, args.dtype)
        Console().print(f"{folder}: the model of {workdir} at step {done.step}, "
                        f"{done.bytes / 1e6:,.1f} MB, {done.dtype}")
    return 0


def _from_hf(folder: Path, workdir: Path, segment_length: int) -> None:
    source, say = importing.from_hf(folder, workdir, segment_length), Console().print
    model = source.model
    parameters = abstract_params(LanguageModel(model), partition.make_mesh({}, 1))
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    provenance.write(workdir, Config(model=model), importing.STEP, count)
    say("\n".join([
        *source.notes, f"{workdir}: {count:,} parameters in {model.num_layers} blocks, segments of "
        f"{model.segment_length} tokens, {model.vocab_size - source.rows} rows added to a "
        f"vocabulary of {source.rows}",
        f"add a memory: lm2 train --config=... --init-from={workdir} --workdir=...",
        f"evaluate it:  lm2 eval --config={workdir / 'config.py'} --workdir={workdir} "
        "--config.eval.corpora=SHARDS"]))
