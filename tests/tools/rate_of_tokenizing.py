"""Prints the rate of `lm2 data tokenize` beside that of the tokenizer's own `encode_batch_fast`.

    python tests/tools/rate_of_tokenizing.py SOURCES... --tokenizer=LLAMA [--megabytes=100]

The texts of the sources are repeated until they have that many megabytes. Both tokenize them in
turns with all cores, the library from memory and the command from a file to shards. The output is a
JSON object: seconds of each turn, and the median of the ratios of the rates.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import tokenizers

from lm2_jax.commands.tokenize import tokenize
from lm2_jax.data.text import documents as texts
from lm2_jax.report import records
from lm2_jax.runtime.console import Console

DOCUMENT = 20_000  # characters


def documents(sources: list[str], size: int) -> list[str]:
    """Texts of some 20,000 characters, with `size` bytes together."""
    whole = [document.text for path in texts.find(sources) for document in texts.read(path)]
    parts = [text[at:at + DOCUMENT] for text in whole for at in range(0, len(text), DOCUMENT)]
    found, left = [], size
    while left > 0:
        for part in parts:
            found.append(part)
            left -= len(part.encode())
            if left <= 0:
                break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    found = documents(args.sources, args.megabytes * 10**6)
    library = tokenizers.Tokenizer.from_file(f"{args.tokenizer}/tokenizer.json")
    seconds: dict[str, list[float]] = {"encode_batch_fast": [], "lm2 data tokenize": []}
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "texts.jsonl", Path(folder) / "shards"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
        for _ in range(args.turns):
            began = time.perf_counter()
            tokens = 0
            for first in range(0, len(found), 100):
                tokens += sum(len(encoded.ids) for encoded in library.encode_batch_fast(
                    found[first:first + 100], add_special_tokens=False))
            seconds["encode_batch_fast"].append(time.perf_counter() - began)
            shutil.rmtree(out, ignore_errors=True)
            began = time.perf_counter()
            tokenize([str(source)], args.tokenizer, out, console=Console(quiet=True))
            seconds["lm2 data tokenize"].append(time.perf_counter() - began)
    theirs, ours = seconds.values()
    print(json.dumps({
        records.MEASURED: records.origin(), "megabytes": args.megabytes, "tokens": tokens,
        "documents": len(found), "seconds": seconds,
        "rate_over_encode_batch_fast": round(statistics.median(
            a / b for a, b in zip(theirs, ours, strict=True)), 3)}, indent=1))


if __name__ == "__main__":
    main()
