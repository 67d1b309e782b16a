"""A memory module as the authors of the paper published it, for `lm2 bench memory --torch-python`.

It is written anew from what their module computes, since their code may not be used here: slots are
updated by what the tokens read, through a small network and two gates, of which each sees the mean
of all tokens. It therefore needs as many tokens as slots, and is not causal. Heads, dropout and
masks of padding are left out, which changes no matrix product.

It runs as a script in another interpreter, which has torch. Its argument is JSON: "size" of tokens,
slots and channels, "rows" and "threads". The first line of output is JSON with the version and the
FLOPs of the matrix products of a forward and a backward pass; after it there is, for each line on
stdin, the number of seconds that both took.
"""

import json
import sys
import time


def main() -> None:
    import torch  # type: ignore[import-not-found]
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode  # type: ignore[import-not-found]

    options = json.loads(sys.argv[1])
    size, rows = options["size"], options["rows"]
    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)

    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.mlp = (nn.Linear(size, size) for _ in range(4))
            self.norms = nn.ModuleList([nn.LayerNorm(size), nn.LayerNorm(size)])
            self.of_token = nn.Parameter(torch.ones(size))
            self.token_gates, self.slot_gates = (nn.Linear(size, 2 * size) for _ in range(2))

        def forward(self, x, memory):
            read = nn.functional.scaled_dot_product_attention(
                self.q(x), self.k(memory), self.v(memory), is_causal=True)
            added = self.norms[0](memory + read)
            hidden = torch.relu(self.mlp(torch.relu(self.mlp(added))))  # one layer, twice
            candidate = self.norms[1](added + hidden)
            mean = torch.relu(self.of_token * x).mean(dim=1, keepdim=True)
            gates = self.token_gates(mean) + self.slot_gates(torch.tanh(memory))
            write, keep = torch.sigmoid(gates + torch.tensor([0.0, 1.0]).repeat_interleave(size)
                                        ).chunk(2, dim=-1)
            new = write * torch.tanh(candidate) + keep * memory
            return x + new, new

    module = Memory()
    x, memory = (torch.randn(rows, size, size, requires_grad=True) for _ in range(2))

    def both() -> None:
        for tensor in (x, memory, *module.parameters()):
            tensor.grad = None
        out, new = module(x, memory)
        (out.sum() + new.sum()).backward()

    with FlopCounterMode(display=False) as counter:
        both()
    print(json.dumps({"torch": torch.__version__, "flops": counter.get_total_flops()}), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        both()
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
