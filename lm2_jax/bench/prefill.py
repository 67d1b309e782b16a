"""The time and the peak memory of reading one context, in a process of its own.

`python -m lm2_jax.bench.prefill` takes a `Work` as JSON on stdin. It writes the line BEGUN when
everything is compiled, and then the result as JSON.
"""

import dataclasses
import json
import re
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.config import Config, ModelConfig, files
from lm2_jax.generation import reading
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import init
from lm2_jax.model.state import init_state
from lm2_jax.runtime import compilation_cache

BEGUN = "begun"
ENOUGH = 60.0  # seconds; after a repetition that took longer there is no other
_PEAK = Path("/proc/self/status")


@dataclass(frozen=True)
class Work:
    """What is measured.

    Attributes:
      model: its segments hold the whole context if it is read in one call.
      tokens: of the context.
      seed: of the parameters and of the tokens.
      repeats: how often the context is read, until a repetition takes longer than ENOUGH.
      memory: bytes that the process may allocate; 0 = any number.
    """

    model: ModelConfig
    tokens: int
    seed: int
    repeats: int
    memory: int

    def to_json(self) -> str:
        """The work in one line."""
        facts = dataclasses.asdict(dataclasses.replace(self, model=ModelConfig()))
        return json.dumps({**facts, "model": files.to_dict(Config(model=self.model))})

    @classmethod
    def from_json(cls, text: str) -> "Work":
        """What `to_json` has written."""
        facts = json.loads(text)
        return cls(**{**facts, "model": files.from_dict(facts["model"]).model})


def measure(work: Work) -> dict:
    """Returns {"seconds" of each repetition, "peak" bytes resident while the context was read}.

    Segments are streamed as an evaluation streams them, from the initial state and without logits.
    A context of one segment is one call, of which the sum of the hidden states is returned, so that
    the compiler leaves nothing out.
    """
    c = work.model
    model, params = LanguageModel(c), init(c, jax.random.key(work.seed))
    tokens = np.random.default_rng(work.seed).integers(c.vocab_size, size=work.tokens,
                                                       dtype=np.int32)
    if c.segment_length >= work.tokens:
        one = jax.jit(lambda params, tokens_BT: jnp.sum(model.apply(
            params, tokens_BT, init_state(c, 1), logits=False).hidden)).lower(
                params, tokens[None]).compile()

        def read() -> object:
            return one(params, tokens[None])
    else:
        # Whole segments only: the last one is left to what follows.
        context = np.append(tokens, np.int32(0))

        def read() -> object:
            return reading.read(model, params, [context], pad_id=0).state

        first = context[:(reading.CHUNK + 1) * c.segment_length + 1]
        reading.read(model, params, [first], pad_id=0)  # compiles
    print(BEGUN, flush=True)
    _forget_peak()
    seconds: list[float] = []
    while len(seconds) < work.repeats and max(seconds, default=0.0) < ENOUGH:
        begun = time.perf_counter()
        jax.block_until_ready(read())
        seconds.append(time.perf_counter() - begun)
    return {"seconds": seconds, "peak": _peak()}


def _forget_peak() -> None:
    """Makes the kernel's record of the peak begin anew, so that compilation is not in it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _peak() -> int:
    """The peak of this process's resident memory, in bytes; on accelerators, the device's."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    if _PEAK.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", _PEAK.read_text())):
        return 1024 * int(found[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    work = Work.from_json(sys.stdin.read())
    if work.memory:
        resource.setrlimit(resource.RLIMIT_DATA, (work.memory, work.memory))
    compilation_cache.enable()
    print(json.dumps(measure(work)), flush=True)


if __name__ == "__main__":
    main()
