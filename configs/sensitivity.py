"""How far learning rate, batch and warm-up of the model `lm2` of rivals.py may be changed.

    lm2 train --config=sensitivity:rate_0.001_rows_1_warmup_50 --workdir=runs/sensitivity/one

Every combination is trained on as many tokens as in rivals.py and evaluated at and beyond the
trained length. sweep.md has the table, and grid.png the exact match at each length; what
reaches 0.9 is outlined:

  lm2 sweep --config=sensitivity --out=runs/sensitivity

Names of runs, rate_R_rows_B_warmup_W:

  rate_R    a learning rate of R, which decays to a tenth of it
  rows_B    B times the rows in a batch, for 1 / B times the steps; all stages are as long in tokens
  warmup_W  a warm-up of W steps
"""

import itertools
from pathlib import Path

from ml_collections import ConfigDict

from lm2_jax.config import source

rivals = source.module(Path(__file__).with_name("rivals.py"))

RATES = (0.00025, 0.0005, 0.001, 0.002, 0.004)
ROWS = (0.5, 1, 2)
WARMUPS = (50, 300)
RUNS = {f"rate_{rate}_rows_{rows}_warmup_{warmup}": (rate, rows, warmup)
        for warmup, rows, rate in itertools.product(WARMUPS, ROWS, RATES)}


def get_config(name: str = "rate_0.001_rows_1_warmup_50") -> ConfigDict:
    if name not in RUNS:
        raise ValueError(f"there is no run {name}; the runs are {', '.join(RUNS)}")
    rate, times, warmup = RUNS[name]
    config = rivals.get_config("lm2")
    config.data.curriculum = tuple((round(first / times), segments, round(rows * times))
                                   for first, segments, rows in config.data.curriculum)
    config.train.update(
        num_steps=round(config.train.num_steps / times), learning_rate=rate,
        final_learning_rate=rate / 10, warmup_steps=warmup,
        write_cost_from=round(config.train.write_cost_from / times))
    config.eval.update(lengths=("192", "1k", "4k"), num_samples=100, max_samples=(),
                       memory=("carried",))
    return config
