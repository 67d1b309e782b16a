"""The training step of transformers' Llama, in a process of its own that imports PyTorch.

PyTorch is not a requirement of this package. Where it or transformers cannot be imported, nothing
is measured.
"""

import json
import subprocess
import sys

from lm2_jax.bench.measures import Measure
from lm2_jax.bench.on_device import MILLI, Bench, Found, NotMeasured
from lm2_jax.training.clock import flops_per_token

MOST = 8  # rows of the first attempt
# It gets the sizes as JSON on its command line, tries fewer rows until they fit, and prints
# {"seconds": [..], "rows": .., "attention": .., "versions": {..}}.
SCRIPT = """
import json, sys, time
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM
c = json.loads(sys.argv[1])
device = "cuda" if torch.cuda.is_available() else "cpu"
try:
    import flash_attn
    attention = "flash_attention_2" if device == "cuda" else "sdpa"
except ImportError:
    attention = "sdpa"
torch.manual_seed(0)
config = LlamaConfig(attn_implementation=attention, use_cache=False, **c["model"])
with torch.device(device):
    model = LlamaForCausalLM(config)
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
compiled = torch.compile(model)

def wait():
    if device == "cuda":
        torch.cuda.synchronize()

def step(tokens):
    with torch.autocast(device, torch.bfloat16):
        loss = compiled(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

rows = c["rows"]
while True:
    try:
        tokens = torch.randint(c["model"]["vocab_size"], (rows, c["tokens"]), device=device)
        step(tokens)
        step(tokens)
        break
    except torch.cuda.OutOfMemoryError:
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        rows //= 2
        if not rows:
            raise
seconds = []
for _ in range(c["repeats"]):
    wait()
    begun = time.perf_counter()
    step(tokens)
    wait()
    seconds.append(time.perf_counter() - begun)
print(json.dumps({"seconds": seconds, "rows": rows, "attention": attention, "versions": {
    "torch": torch.__version__, "transformers": transformers.__version__}}))
"""


def train(bench: Bench) -> Found:
    """Compiled steps in bfloat16 on rows of one segment, no more rows than the step of ours had."""
    model = bench.backbone.model
    asked = subprocess.run([sys.executable, "-c", "import torch, transformers"],
                           capture_output=True, text=True)
    if asked.returncode:
        raise NotMeasured(asked.stderr.strip().splitlines()[-1])
    sizes = {"rows": min(int(bench.known.get("llama_rows", MOST)), MOST),
             "tokens": model.segment_length, "repeats": bench.scale.repeats,
             "model": {"vocab_size": model.vocab_size, "hidden_size": model.embed_dim,
                       "intermediate_size": model.mlp_dim, "num_hidden_layers": model.num_layers,
                       "num_attention_heads": model.num_heads, "rope_theta": model.rope_theta,
                       "num_key_value_heads": model.num_kv_heads,
                       "tie_word_embeddings": model.tie_embeddings,
                       "max_position_embeddings": max(model.segment_length, 8192)}}
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(sizes)], capture_output=True,
                          text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    seconds, tokens = sorted(found["seconds"]), found["rows"] * model.segment_length
    middle = seconds[len(seconds) // 2]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    against = [bench.utilisation(flops_per_token(model) * tokens / middle)]
    if ours := bench.known.get("llama_token_seconds"):
        against.append(f"ours takes {ours / (middle / tokens):.2f} of its time a token")
    return [Measure(f"step, {found['rows']} rows of {model.segment_length} tokens, {versions}, "
                    f"{found['attention']}", [s / MILLI for s in seconds], "ms",
                    "; ".join(filter(None, against)))], {}
