"""Functions of the BABILong task files. Those that load data need lm_eval's `datasets`.

The tasks are `lm2_babilong_qa1` to `lm2_babilong_qa20`, and the group `lm2_babilong` is qa1 to qa5.
They are scored by the benchmark's own metric, over all samples (`acc`) and by context length
(`acc_4k`). Values of `--metadata`:

    samples   a file of samples (JSON or parquet), or a folder with the published data
    lengths   those that are evaluated, such as 4k,8k; by default all
    style     fine_tuned (the default: as in training) or instruct (the benchmark's template)
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lm2_jax.config.evaluation import PROMPT_STYLES
from lm2_jax.data.babilong import prompts, published
from lm2_jax.data.babilong.prompting import TUNED
from lm2_jax.data.babilong.samples import KEYS
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.eval import metrics
from lm2_jax.runtime import paths

HOW = "--metadata samples=PATH"


def documents(task: str, samples: str = "", lengths: Any = (), style: str = PROMPT_STYLES[0],
              **_: Any) -> dict[str, Any]:
    """The samples of a task as {"test": dataset}.

    Args:
      task: "qa1".
      samples, lengths, style: see the module.

    Raises:
      UserError: if there are no samples, or they cannot be read.
    """
    import datasets

    if style not in PROMPT_STYLES:
        raise UserError(f"style is {style!r}, must be one of {', '.join(PROMPT_STYLES)}")
    prompt = TUNED if style == PROMPT_STYLES[0] else prompts.default_prompts()[task]
    wanted = lengths.split(",") if isinstance(lengths, str) else list(lengths)
    found = [{**sample, "text": prompt.prefix() + sample["input"].strip()
              + prompt.suffix(sample["question"].strip())}
             for sample in _samples(task, samples)
             if not wanted or sample["length"] in wanted]
    if not found:
        at = f" at {', '.join(wanted)}" if wanted else ""
        raise UserError(f"{samples} has no samples of {task}{at} ({HOW})")
    return {"test": datasets.Dataset.from_list([
        {key: sample[key] for key in (*KEYS, "text") if key != "input"} for sample in found])}


def _samples(task: str, path: str) -> Iterator[Mapping[str, str]]:
    """The samples of a task in a file, or in the files of a folder."""
    if not path:
        raise UserError(f"lm2_babilong needs samples; give {HOW}")
    root = paths.of(path)
    if not root.exists():
        raise UserFileNotFoundError(f"no sample file or folder {path} ({HOW})")
    for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
        cell = published.cell_of(file)
        if root.is_dir() and (cell is None or cell[0] != task or not file.is_file()):
            continue
        named = dict(zip(published.NAMES, cell or (), strict=False))
        for where, sample in published.rows(file):
            values = {**named, **sample} if isinstance(sample, dict) else {}
            if missing := [key for key in KEYS if not isinstance(values.get(key), str)]:
                raise UserError(f"{where} has no text under {', '.join(missing)}")
            if values["task"] == task:
                yield values


def process_results(doc: Mapping[str, str], results: list[str]) -> dict[str, float]:
    """Whether the answer is right by the benchmark's metric, and whether it is the target."""
    right = float(metrics.babilong_correct(doc["task"], doc["target"], results[0],
                                           doc["question"]))
    same = float(metrics.exact_match(doc["target"], results[0]))
    return {"acc": right, "exact_match": same, f"acc_{doc['length']}": right}
