"""Learning rates of the memories, of a window and of full attention in rivals.py, one seed each.

    lm2 train --config=rates:lm2_1e-3 --workdir=runs/rates/lm2_1e-3_seed0

All of them, one run a core, with one table of the results:

    lm2 sweep --config=rates --out=runs/rates

A run is `MODEL_RATE`: a model of rivals.py with train.learning_rate=RATE, which falls to a tenth of
it. It is evaluated at 192, 1k and 4k tokens, on 100 samples each, with the memory carried.
"""

from pathlib import Path

from ml_collections import ConfigDict

from lm2_jax.config import source

rivals = source.module(Path(__file__).with_name("rivals.py"))

RATES = ("5e-4", "1e-3", "2e-3", "3e-3")
RUNS = {f"{model}_{rate}": (model, float(rate))
        for model in ("rmt", "armt", "delta", "lm2", "window", "full") for rate in RATES}
EVAL = {"eval.lengths": ("192", "1k", "4k"), "eval.max_samples": (), "eval.num_samples": 100,
        "eval.memory": ("carried",)}


def get_config(name: str = "lm2_1e-3") -> ConfigDict:
    if name not in RUNS:
        raise ValueError(f"there is no run {name}; the runs are {', '.join(RUNS)}")
    model, rate = RUNS[name]
    config = rivals.get_config(model)
    config.update_from_flattened_dict(EVAL | {
        "train.learning_rate": rate, "train.final_learning_rate": rate / 10})
    return config
