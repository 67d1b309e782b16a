"""The interpreter in which `torch_llama` runs."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from lm2_jax.bench import torch_llama
from lm2_jax.config import ModelConfig
from lm2_jax.errors import UserError
from lm2_jax.runtime import allocator


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def llama(python: str, backbone: ModelConfig, work: str, **options: Any
          ) -> Iterator[tuple[dict, Callable[[Any], Any]]]:
    """Runs `torch_llama` with another Python.

    Args:
      python: path of an interpreter that has torch and transformers.
      backbone: its shape; what it says of a memory is not used.
      work: "train" or "generate".
      options: of the function of that name in `torch_llama`.

    Yields:
      ({"parameters", "torch", "transformers"}, what sends an argument and returns the answer).

    Raises:
      UserError: if the other Python cannot be started or fails.
    """
    c = backbone
    shape = dict(
        vocab_size=c.vocab_size, hidden_size=c.embed_dim, num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads, num_key_value_heads=c.num_kv_heads, head_dim=c.head_dim,
        intermediate_size=c.mlp_dim, rms_norm_eps=c.norm_eps,
        tie_word_embeddings=c.tie_embeddings, max_position_embeddings=8192)
    asked = json.dumps(shape | {"threads": cores(), "work": work, "options": options})
    try:
        process = subprocess.Popen(
            [python, torch_llama.__file__, asked], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=allocator.environment_of_the_user())
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
