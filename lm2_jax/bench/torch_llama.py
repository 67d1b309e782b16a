"""A Llama of the transformers library, for the benchmarks that take --torch-python.

It runs as a script in another interpreter, which has torch and transformers, since this package
uses neither. Its argument is JSON: the fields of transformers' LlamaConfig, and "threads" and
"work", with the options of the function of that name. The first line of output is JSON with the
versions; after it there is one for each line on stdin. All is computed in float32 on the CPU.
"""

import json
import sys
import time


def train(model, rows: int, tokens: int, compiled: bool):
    """Returns what takes a training step (AdamW, clipped gradient) and returns its seconds."""
    import torch  # type: ignore[import-not-found]

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98),
                                  weight_decay=0.01, fused=True)
    drawn = torch.randint(model.config.vocab_size, (rows, tokens + 1))

    def loss_of(inputs, targets):
        logits = model(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    if compiled:
        loss_of = torch.compile(loss_of)

    def step(_) -> float:
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss_of(drawn[:, :-1], drawn[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return time.perf_counter() - begun

    step(None)  # compiles
    step(None)
    return step


def generate(model, prompt: int, new: int):
    """Returns what generates greedily in so many rows; it returns the seconds to the first token,
    and from there to the last."""
    import torch

    model.eval()

    class Times:
        """A streamer: it gets the prompts, then each token."""

        def __init__(self):
            self.seconds = []

        def put(self, _) -> None:
            self.seconds.append(time.perf_counter())

        def end(self) -> None:
            pass

    def run(rows: int) -> tuple[float, float]:
        drawn, times = torch.randint(model.config.vocab_size, (rows, prompt)), Times()
        with torch.inference_mode():
            model.generate(drawn, attention_mask=torch.ones_like(drawn), do_sample=False,
                           max_new_tokens=new, min_new_tokens=new, streamer=times, pad_token_id=0)
        begun, first, *_, last = times.seconds
        return first - begun, last - first

    return run


def main() -> None:
    import torch
    import transformers  # type: ignore[import-not-found]

    options = json.loads(sys.argv[1])
    threads, name, asked = (options.pop(key) for key in ("threads", "work", "options"))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**options))
    work = (train if name == "train" else generate)(model, **asked)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"parameters": parameters, "torch": torch.__version__,
                      "transformers": transformers.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
