"""The model card of an exported model."""

import contextlib
import json
import string
from pathlib import Path

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.config import Config, files
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.shards import manifest as manifests
from lm2_jax.data.shards.manifest import TRAIN
from lm2_jax.errors import UserError
from lm2_jax.runtime import paths

CARD = string.Template("""---
library_name: $library
tags: [$tags]
---

# $title

$what

```python
$usage
```

## Origin

$origin

## Config

Keys that differ from the defaults of lm2_jax:

| key | value |
|---|---|
$keys
""")
WITH_MEMORY = """A Llama decoder with a memory of kind `$kind` in its first $layers of $blocks
blocks. It reads a text in segments of $segment tokens, and carries the memory from one to the next.
The tensors of the Llama have the names of the transformers library; those of the memory are
`model.layers.N.memory.*` and `model.memory_tokens.*`. transformers cannot run the memory, and so
does not load this model; lm2_jax does."""
LLAMA = "A Llama decoder, which the transformers library loads."
USE_LLAMA = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)"""
USE_LM2 = """# lm2 convert from-hf FOLDER --workdir=WORKDIR
import lm2_jax as lm2

run = lm2.load("WORKDIR")  # run.model, run.variables, run.tokenizer"""


def text(config: Config, workdir: Path, step: int, size: int, dtype: str) -> str:
    """Returns the card in Markdown.

    Args:
      size: bytes of all tensors.
      dtype: of most of them.
    """
    model, memory = config.model, config.model.memory
    what = LLAMA if not memory.num_layers else string.Template(WITH_MEMORY).substitute(
        kind=memory.kind, layers=memory.num_layers, blocks=model.num_layers,
        segment=model.segment_length)
    title = f"{workdir.resolve().name}, exported by lm2_jax"
    if not (workdir / workdirs.CONVERTED).exists():
        title += f" after step {step}"
    return CARD.substitute(
        library="lm2_jax" if memory.num_layers else "transformers",
        tags="lm2, llama" if memory.num_layers else "llama",
        title=title, what=f"{what} {size / 1e6:,.1f} MB, {dtype}.",
        usage=USE_LM2 if memory.num_layers else USE_LLAMA,
        origin="\n".join(_origin(config, workdir, step)),
        keys="\n".join(f"| `{key}` | `{value!r}` |"
                       for key, value in files.changed(config).items()))


def _origin(config: Config, workdir: Path, step: int) -> list[str]:
    """Where the model comes from and where it was trained, as far as the workdir says."""
    converted, begun = workdir / workdirs.CONVERTED, workdir / "init_from.json"
    if converted.exists():
        name = Path(json.loads(converted.read_text("utf-8"))["folder"]).name
        return [f"- converted from the transformers model in a folder `{name}`, not trained since"]
    lines = [f"- trained for {step} of {config.train.num_steps} steps of lm2_jax",
             f"- data: {_data(config, tokenizers.load(workdir).digest)}",
             f"- trained parameters: {', '.join(config.train.trainable) or 'all'}"]
    if begun.exists():
        facts = json.loads(begun.read_text("utf-8"))
        lines.append(f"- began with the weights of `{Path(facts['workdir']).name}`")
    if where := _devices(workdir):
        lines.append(f"- trained on {', then '.join(where)}")
    for facts in (workdir / "eval" / "provenance.json",
                  workdir / "eval" / "perplexity" / "provenance.json"):
        if facts.exists():
            told = json.loads(facts.read_text("utf-8"))
            versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
            lines.append(f"- evaluated at step {told['step']} on {told['devices']}; commit "
                         f"{told['commit']}; {versions}")
    return lines


def _devices(workdir: Path) -> list[str]:
    """The devices of all starts of the run, from `starts.jsonl`, in order."""
    path, found = workdir / "starts.jsonl", []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, KeyError):  # the last line may be half written
            start = json.loads(line)
            found.append(f"{start['devices']} x {start['device']} with jax {start['jax']}")
    return list(dict.fromkeys(found))


def _data(config: Config, tokenizer: str) -> str:
    """What the model was trained on, with the tokens of each corpus that is still there.

    Args:
      tokenizer: digest of the run's.
    """
    data = config.data
    if data.source != "corpus":
        return f"tasks {', '.join(data.tasks)}; background `{data.background}`"
    said = []
    for folder in data.corpora:
        said.append(f"`{folder.rstrip('/').rpartition('/')[2]}`")
        # The folder may have gone, or stand for another one where this command runs.
        with contextlib.suppress(UserError, OSError):
            manifest = manifests.read(paths.of(folder))
            if manifest.job.tokenizer == tokenizer:
                said[-1] += f" ({manifest.total(TRAIN, 'tokens'):,} tokens)"
    weights = ":".join(f"{weight:g}" for weight in data.corpus_weights)
    return f"tokenized corpora {', '.join(said)}" + (f", in shares {weights}" if weights else "")
