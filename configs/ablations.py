"""The memory of LM2 in variants, each trained on the task and the tokens of rivals.py.

    lm2 train --config=ablations:routed --workdir=runs/ablations/routed_seed0

Train and evaluate all of them, one run a core, with one table of the results; then the best ones
with more seeds:

  lm2 sweep --config=ablations --out=runs/ablations
  lm2 sweep --config=ablations --out=runs/ablations --runs=routed,paper --seeds=0,1,2 \\
      --config.eval.num_samples=300 --config.eval.lengths=192,1k,4k,16k

A run is the model `lm2` of rivals.py with the keys of BASE and then its own keys in RUNS. Names:

  routed, paper         the write
  cost_C, late_cost_C   a write cost of C from the start, or for the last fifth of the steps
  segment_T             segments of T tokens. A row has as many segments as before, so it is
                        longer, and a batch has fewer rows, with as many tokens in all and as many
                        facts to a token. A row is asked no more questions, so a batch has fewer.
  slots_N, heads_N      slots of a bank; heads of the memory's attention
  blocks_N              a memory in the first N blocks only
  window_N              attention also sees N tokens of earlier segments
  forget_B              initial bias of the forget gate
  top_k_N               a token reads its N best slots only
"""

from pathlib import Path

from ml_collections import ConfigDict

from lm2_jax.config import source

rivals = source.module(Path(__file__).with_name("rivals.py"))

BASE = {
    "model.memory.write": "routed",
    "eval.lengths": ("192", "1k", "4k"), "eval.num_samples": 100, "eval.memory": ("carried",),
}


def late_cost(cost: float) -> dict:
    """A write cost for the last fifth of the steps."""
    return {"train.write_cost": cost,
            "train.write_cost_from": rivals.get_config().train.num_steps * 4 // 5}


def segments_of(tokens: int) -> dict:
    """Longer segments, with as many tokens in a batch and as many facts to a token."""
    base = rivals.get_config()
    times = tokens / base.model.segment_length
    return {
        "model.segment_length": tokens, "model.rope_theta": base.model.rope_theta * times,
        "data.points_per_segment": base.data.points_per_segment * times,
        "data.max_points_per_segment": round(base.data.get("max_points_per_segment", 2) * times),
        "data.curriculum": tuple((first, segments, round(rows / times))
                                 for first, segments, rows in base.data.curriculum)}


RUNS = {
    "routed": {},
    "paper": {"model.memory.write": "paper"},
    "late_cost_0.1": late_cost(0.1),
    "cost_0.1": {"train.write_cost": 0.1},
    "late_cost_0.3": late_cost(0.3),
    "cost_0.3": {"train.write_cost": 0.3},
    "late_cost_0.03": late_cost(0.03),
    "cost_0.03": {"train.write_cost": 0.03},
    "segment_48": segments_of(48),
    "segment_96": segments_of(96),
    "segment_192": segments_of(192),
    "slots_8": {"model.memory.num_slots": 8},
    "slots_32": {"model.memory.num_slots": 32},
    "slots_64": {"model.memory.num_slots": 64},
    "heads_1": {"model.memory.num_heads": 1},
    "heads_2": {"model.memory.num_heads": 2},
    "heads_8": {"model.memory.num_heads": 8},
    "blocks_1": {"model.memory.num_layers": 1},
    "blocks_2": {"model.memory.num_layers": 2},
    "window_24": {"model.attention_window": 24},
    "window_48": {"model.attention_window": 48},
    "forget_1": {"model.memory.forget_gate_bias": 1.0},
    "forget_5": {"model.memory.forget_gate_bias": 5.0},
    "top_k_4": {"model.memory.top_k": 4},
    "top_k_8": {"model.memory.top_k": 8},
}


def get_config(name: str = "routed") -> ConfigDict:
    if name not in RUNS:
        raise ValueError(f"there is no run {name}; the runs are {', '.join(RUNS)}")
    config = rivals.get_config("lm2")
    config.update_from_flattened_dict(BASE | RUNS[name])
    return config
