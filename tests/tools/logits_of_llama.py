"""Prints how far the logits of a converted Llama are from those of transformers, on a text.

    python tests/tools/logits_of_llama.py LLAMA TEXT [--tokens=256]  # needs the extra `parity`

The output is a JSON object: the largest difference and the standard deviation of the logits, and
the number of tokens after which both have the same argmax. LLAMA is also converted and exported
again; `tensors` are compared byte for byte.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import lm2_jax as lm2
from lm2_jax.convert import exporting, importing
from lm2_jax.report import records


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", metavar="LLAMA")
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=256)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workdir, back = Path(temporary) / "run", Path(temporary) / "back"
        importing.from_hf(args.folder, workdir, segment_length=args.tokens)
        run = lm2.load(workdir)
        ids = run.tokenizer.encode(args.text.read_text("utf-8")[:20 * args.tokens])[:args.tokens]
        tokens = np.array([ids], np.int32)
        ours = np.asarray(lm2.apply_segments(
            run.model, run.variables, tokens, lm2.init_state(run.config.model, 1)).logits)[0]
        exporting.to_hf(workdir, back)
        given, returned = tensors(Path(args.folder)), tensors(back)
    theirs = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(tokens.astype(np.int64))).logits[0].numpy()
    ours = ours[:, :wanted.shape[1]]
    same = [name for name, tensor in given.items() if name in returned
            and tensor.dtype == returned[name].dtype and torch.equal(tensor, returned[name])]
    print(json.dumps({
        records.MEASURED: records.origin(), "tokens": args.tokens,
        "largest_difference": float(np.abs(ours - wanted).max()),
        "standard_deviation": float(wanted.std()),
        "same_argmax": int((ours.argmax(-1) == wanted.argmax(-1)).sum()),
        "tensors": len(given), "tensors_that_came_back": len(same),
        "other_tensors": len(returned.keys() - given.keys())}, indent=1))


if __name__ == "__main__":
    main()
