"""The documentation of every key, read from the source of the dataclasses.

`python -m lm2_jax.config.reference > configs/README.md` writes the page of all configs and keys.
"""

import ast
import dataclasses
import inspect
import itertools
import typing
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import NamedTuple

from lm2_jax.config import Config, shipped

INTRODUCTION = """<!-- Written by `python -m lm2_jax.config.reference > configs/README.md`. -->

# Configs

`--config` takes a Python file with `get_config() -> ml_collections.ConfigDict`, or the name of a
config of this folder. These are installed with the package, and `lm2 configs` lists them.
`FILE:ARGUMENT` and `NAME:ARGUMENT` call `get_config("ARGUMENT")`. A config of your own sets only
what differs from the defaults:

```python
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.model = dict(embed_dim=256, memory=dict(num_layers=3))
    config.train = dict(num_steps=2000)
    return config
```

Any key can be overridden on the command line, as `--config.train.num_steps=20`. Strings need no
quotes, tuples of strings are given as `qa1,qa2`, and other tuples as in Python:
`"((0,1),(800,2))"`. A key or a value that cannot be used is refused in one line, with what would be
right.

Results of these configs are in [results](results/README.md).
"""
USES = (
    ("The paper's write", "model.memory.write=paper"),
    ("A late cost of open slots", "train.write_cost=0.1 train.write_cost_from=1800"),
    ("An attention window, but not in rows of one and two segments",
     "model.attention_window=24 train.window_from_segments=3"),
    ("Other writes: each head writes its two best-matching slots, found by keys of their own",
     "model.memory.write=null model.memory.write_top_k=2 model.memory.slot_keys=true "
     "model.memory.tied_addressing=false"),
    ("Gates as in the paper, in a routed write",
     "model.memory.coupled_gates=false model.memory.gates_see_slot=false"),
    ("Gates that learn faster and are not decayed",
     "train.gate_learning_rate_factor=3 train.decay_gates=false"),
    ("Attention that holds no array of affinities, on every backend",
     "model.attention_implementation=chunked"),
    ("Banks of half the size between segments", "model.memory.bank_dtype=bfloat16"),
    ("Moments of the optimizer of half the size", "train.moments_dtype=bfloat16"),
    ("All blocks at once, each on a segment of its own", "model.schedule=wavefront"),
    ("Pipeline parallelism over four stages, with segments in the place of micro-batches",
     "model.schedule=wavefront mesh.stage=4 model.num_layers=4 model.memory.num_layers=4"),
    ("Llama weights of other shapes", "model.head_dim=128 model.norm_eps=1e-6"),
    ("A memory beside a Llama that stays as it is",
     "train.trainable=*/memory/*,memory_tokens/*"),
    ("Regularisation", "model.dropout=0.1"),
    ("Sparse memory reads, as in the paper", "model.memory.top_k=8"),
    ("A memory that forgets more slowly", "model.memory.forget_gate_bias=6"),
    ("Training on bAbI files in books", "data.babi=BABI/en-10k data.background=BOOKS"),
    ("Samples as in BABILong: one question, at the end", "data.dense=false"),
    ("A mixture of tasks", "data.tasks=qa1,qa2 data.task_weights=1,2"),
    ("Facts as rare in long rows as in BABILong", "data.points_per_segment=2 data.max_points=10"),
    ("Some long samples whose facts stand close together",
     "data.deferred=true data.deferred_fraction=0.8 data.bare_fraction=0.5"),
    ("Longer segments, as dense with facts", "model.segment_length=96 "
     "data.max_points_per_segment=8"),
    ("Samples that begin with the state that another one left, behind a cut of the gradient",
     "data.vary_length=false data.sample_segments=8 data.passed_states=1 "
     "train.bptt_segments=8"),
    ("Batches from several processes", "data.num_workers=4"),
    ("Larger batches than fit at once", "train.accumulate_steps=4"),
    ("Truncated backpropagation through time", "train.bptt_segments=2"),
    ("Optimizer settings", "train.beta1=0.95 train.clip_norm=0.5"),
    ("A watchdog for slower steps", "train.stall_seconds=3600"),
    ("Checkpoints on slow or full disks",
     "checkpoint.keep=1 checkpoint.asynchronous=false checkpoint.on_failure=continue"),
    ("Checkpoints every ten minutes too, one of every 10,000 steps kept for ever, and the best two",
     "checkpoint.every_minutes=10 checkpoint.keep_every=10000 checkpoint.keep_best=2 "
     "checkpoint.best_metric=held_out_loss"),
    ("Two TPU slices, with the parameters split over both", "mesh.dcn_data=1 mesh.dcn_fsdp=2"),
    ("Metrics in W&B too", "log.trackers=wandb log.project=my-project"),
    ("Evaluation on bAbI's test files in other books",
     "eval.tasks=qa1,qa2 eval.babi=BABI/en-10k eval.background=BOOKS/test"),
    ("Fewer samples at long lengths, and no reset memory there",
     "eval.lengths=1k,4k,16k eval.num_samples=300 eval.max_samples=300,100,30 "
     "eval.reset_up_to=4k"),
    ("Exactly the questions of BABILong",
     "eval.babi=BABI/en-10k eval.indices=test_100_idxs.json"),
    ("Samples of a file, or BABILong as published", "eval.samples=BABILONG"),
    ("Questions as language models are asked", "eval.prompt_style=instruct "
     "eval.prompts=PROMPTS.json"),
    ("Prompts without some of their parts", "eval.prompt_style=instruct eval.use_instruction=false "
     "eval.use_examples=false eval.use_post_prompt=false"),
    ("RAG with the most similar sentence first", "eval.retrieve=5 eval.retrieve_order=similarity"),
    ("Longer answers", "eval.max_new_tokens=32"),
    ("Perplexity on other held-out documents, of which 20 are read to their ends",
     "eval.corpora=SHARDS eval.max_documents=20 eval.max_document_segments=0"),
    ("Other held-out samples", "eval.seed=2"),
)
"""(purpose, overrides) for every key that no config of the package sets."""


class Key(NamedTuple):
    """A key of the config.

    Attributes:
      name: as on the command line, without `--config.`: "train.num_steps".
      type: "int", "float", "bool", "str", "tuple of str", ...
      default: its value where no config sets it.
      help: what it means, in a sentence.
    """

    name: str
    type: str
    default: object
    help: str


class Section(NamedTuple):
    """A group of keys: its name ("" for the top level), what it is about, and its own keys."""

    name: str
    help: str
    keys: tuple[Key, ...]


def sections(cls: type = Config, name: str = "") -> Iterator[Section]:
    """The sections of the config, each before those inside it."""
    helps, hints = attribute_docs(cls), typing.get_type_hints(cls)
    keys, inner = [], []
    for field in dataclasses.fields(cls):
        full_name, hint = f"{name}.{field.name}".lstrip("."), _without_none(hints[field.name])
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            inner.append((hint, full_name))
        else:
            keys.append(Key(full_name, _type_name(hint), field.default, helps[field.name]))
    yield Section(name, inspect.getdoc(cls) or "", tuple(keys))
    for hint, full_name in inner:
        yield from sections(hint, full_name)


def attribute_docs(cls: type) -> dict[str, str]:
    """{attribute: the string below it, on one line} of a class."""
    docs = {}
    definition, = ast.parse(inspect.getsource(cls)).body
    for pair in itertools.pairwise(ast.iter_child_nodes(definition)):
        match pair:
            case (ast.AnnAssign(target=ast.Name(id=name)),
                  ast.Expr(value=ast.Constant(value=str(text)))):
                docs[name] = " ".join(text.split())
    return docs


def help_text() -> str:
    """All keys as plain text, for `--help`."""
    return "\n".join(f"  --config.{key.name} ({key.type}, default {_shown(key.default)})\n"
                     f"      {key.help}" for section in sections() for key in section.keys)


def page() -> str:
    """configs/README.md: every config with its command, every key with its meaning."""
    parts = [INTRODUCTION]
    for name, summary in shipped.shipped():
        command = shipped.command(shipped.folder() / f"{name}.py")
        parts.append(f"## {name}\n\n{summary}\n\n```bash\n{command}\n```\n")
    parts.append("## All keys\n")
    for section in sections():
        title = f"### {section.name}\n\n{section.help}\n\n" if section.name else ""
        rows = [f"| `{key.name}` | {key.type} | {_shown(key.default, '`')} | {key.help} |\n"
                for key in section.keys]
        parts.append(title + "| key | type | default | meaning |\n|---|---|---|---|\n"
                     + "".join(rows))
    rows = [f"| {purpose} | " + " ".join(f"`--config.{one}`" for one in overrides.split()) + " |\n"
            for purpose, overrides in USES]
    parts.append("## Uses of the keys that no config sets\n\n| purpose | overrides |\n|---|---|\n"
                 + "".join(rows))
    return "\n".join(parts)


def _without_none(hint):
    if not isinstance(hint, UnionType):
        return hint
    return next(arg for arg in typing.get_args(hint) if arg is not NoneType)


def _type_name(hint) -> str:
    args = typing.get_args(hint)
    return f"tuple of {_type_name(args[0])}" if args else hint.__name__


def _shown(value: object, quote: str = "") -> str:
    return f"{quote}{value!r}{quote}" if value != "" else "empty"


if __name__ == "__main__":
    print(page(), end="")
