"""Prints the memory that converting a Llama's folder takes, with what the process needs at least.

    python tests/tools/memory_of_converting.py FOLDER WORKDIR

The output is a JSON object in bytes: `peak`, the most anonymous memory of the process while it
converts, `before`, what it had at the beginning; `parameters`, their size in float32; `largest`,
that of the largest stacked array. Pages of files are not counted. Needs Linux.
"""

import json
import re
import sys
import threading
import time
from pathlib import Path

import jax

from lm2_jax.convert import importing
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.partition import make_mesh
from lm2_jax.report import records


def anonymous() -> int:
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def main(folder: str, workdir: str) -> None:
    mesh = make_mesh({}, jax.devices()[:1])
    begun = time.perf_counter()
    before = peak = anonymous()
    done = threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        source = importing.from_hf(folder, workdir)
    finally:
        done.set()
        thread.join()
    sizes = [4 * leaf.size for leaf in jax.tree.leaves(
        abstract_params(LanguageModel(source.model), mesh))]
    print(json.dumps({
        records.MEASURED: records.origin(), "peak": peak, "before": before,
        "parameters": sum(sizes), "largest": max(sizes),
        "seconds": round(time.perf_counter() - begun, 1)}, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
