"""Another interpreter, which has PyTorch, in a process beside this one."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from lm2_jax.bench import torch_llama, torch_memory
from lm2_jax.config import ModelConfig
from lm2_jax.errors import UserError
from lm2_jax.runtime import huge_pages


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def llama(python: str, backbone: ModelConfig, work: str, **options: Any
          ) -> contextlib.AbstractContextManager[tuple[dict, Callable[[Any], Any]]]:
    """Runs `torch_llama` with another Python, as `_answering` does.

    Args:
      backbone: its shape; what it says of a memory is not used.
      work: "train" or "generate".
      options: of the function of that name in `torch_llama`.
    """
    c = backbone
    shape = dict(
        vocab_size=c.vocab_size, hidden_size=c.embed_dim, num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads, num_key_value_heads=c.num_kv_heads, head_dim=c.head_dim,
        intermediate_size=c.mlp_dim, rms_norm_eps=c.norm_eps,
        tie_word_embeddings=c.tie_embeddings, max_position_embeddings=8192)
    return _answering(python, torch_llama.__file__, shape | {"work": work, "options": options})


def memory(python: str, size: int, rows: int
           ) -> contextlib.AbstractContextManager[tuple[dict, Callable[[Any], Any]]]:
    """Runs `torch_memory` with another Python, as `_answering` does."""
    return _answering(python, torch_memory.__file__, {"size": size, "rows": rows})


@contextlib.contextmanager
def _answering(python: str, script: str, options: dict
               ) -> Iterator[tuple[dict, Callable[[Any], Any]]]:
    """Runs a script that answers each line of JSON with another.

    Args:
      python: path of an interpreter that has torch.
      options: of the script, as its argument; the number of threads is added.

    Yields:
      (its first line, what sends an argument and returns the answer).

    Raises:
      UserError: if the other Python cannot be started or fails.
    """
    try:
        process = subprocess.Popen(
            [python, script, json.dumps(options | {"threads": cores()})], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=huge_pages.environment_of_the_user())
    except OSError as error:
        raise UserError(f"--torch-python={python}: {error.strerror}") from error
    questions, answers, errors = process.stdin, process.stdout, process.stderr
    assert questions and answers and errors  # which are pipes

    def answer() -> Any:
        line = answers.readline()
        if not line:
            last = errors.read().strip().splitlines()[-1:]
            raise UserError(f"--torch-python={python}: {' '.join(last) or 'it ended at once'}")
        return json.loads(line)

    def ask(argument: Any) -> Any:
        questions.write(json.dumps(argument) + "\n")
        questions.flush()
        return answer()

    with process:
        yield answer(), ask
        questions.close()
