"""Steps of a Llama of the transformers library, for `lm2 bench step --torch-python`.

It runs as a script in another interpreter, which has torch and transformers, since this package
uses neither. Its argument is JSON: the fields of transformers' LlamaConfig, and `rows`, `tokens`,
`threads` and `compiled`. For each line on stdin it takes a training step (AdamW, clipped gradient,
all in float32 on the CPU) and prints its seconds. The first line of output has the versions.
"""

import json
import sys
import time


def main() -> None:
    import torch  # type: ignore[import-not-found]
    import transformers  # type: ignore[import-not-found]

    options = json.loads(sys.argv[1])
    rows, tokens, threads, compiled = (options.pop(name) for name in (
        "rows", "tokens", "threads", "compiled"))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**options)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98),
                                  weight_decay=0.01, fused=True)
    drawn = torch.randint(options["vocab_size"], (rows, tokens + 1))

    def loss_of(inputs, targets):
        logits = model(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    if compiled:
        loss_of = torch.compile(loss_of)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(drawn[:, :-1], drawn[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step()  # compiles
    step()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"parameters": parameters, "torch": torch.__version__,
                      "transformers": transformers.__version__}), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        step()
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
