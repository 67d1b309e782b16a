"""The memory of LM2 in variants, each trained on the task and the tokens of rivals.py.

    lm2 train --config=ablations:base --workdir=runs/ablations/base_seed0

Train and evaluate all of them, one run a core, with one table of the results; then the best ones
with more seeds:

  lm2 sweep --config=ablations --out=runs/ablations
  lm2 sweep --config=ablations --out=runs/ablations --runs=base,paper --seeds=0,1,2 \\
      --config.eval.num_samples=300 --config.eval.lengths=192,1k,4k,16k,64k,128k \\
      --config.eval.max_samples=300,300,300,100,30,30

A run is the model `lm2` of rivals.py with its own keys in RUNS. Names:

  base                  the model as it is: a routed write, coupled gates that see the slot. For the
                        last fifth of the steps open slots cost, and samples begin with the memory
                        that another one left
  paper                 the paper's write
  open, null            coupled gates that see the slot, in a write that is never closed, or never
                        closed exactly
  uncoupled, blind      input and forget gates of their own; gates that do not see the slot
  routed                both: the paper's gates in a routed write
  cost_C, early_cost_C  a write cost of C for the last fifth of the steps, or from the start
  short                 rows of at most 8 segments, as many tokens in all: no states are passed on
  dense, sparse         samples of 32 segments in place of four of 8, with as many facts to a token,
                        or with at most ten facts
  cut                   as dense, with gradients through 8 of the 32 segments
  window_N              attention sees N tokens of earlier segments, not 24
  write_top_2           a head writes the two slots that match best
  slot_keys, untied     learnt keys of the slots; a write with queries and keys of its own
  gates_fast            gates that learn three times as fast and do not decay
  segment_T             segments of T tokens, in rows of at most 768 tokens. A row is longer where
                        it can be, and a batch has fewer rows, with as many tokens in all and as
                        many facts to a token. A row is asked no more questions, so a batch has
                        fewer.
  slots_N, heads_N      slots of a bank; heads of the memory's attention
  blocks_N              a memory in the first N blocks only
  forget_B              initial bias of the forget gate
  top_k_N               a token reads its N best slots only
"""

from pathlib import Path

from ml_collections import ConfigDict

from lm2_jax.config import source

rivals = source.module(Path(__file__).with_name("rivals.py"))

EVAL = {"eval.lengths": ("192", "1k", "4k"), "eval.max_samples": (), "eval.num_samples": 100,
        "eval.memory": ("carried",)}


def segments_of(tokens: int) -> dict:
    """Longer segments, with as many tokens in a batch and in the longest rows, and as many facts to
    a token."""
    base = rivals.get_config()
    times, longest = tokens / base.model.segment_length, base.data.curriculum[-1][1]
    of_sample = max(2, round(base.data.sample_segments / times))

    def stage(first: int, segments: int, rows: int) -> tuple[int, int, int]:
        fewer = min(segments, round(longest / times))
        return first, fewer, round(rows * segments / (fewer * times))

    return {
        "model.segment_length": tokens, "model.attention_window": tokens,
        "model.rope_theta": base.model.rope_theta * times,
        "data.points_per_segment": base.data.points_per_segment * times,
        "data.max_points_per_segment": round(base.data.get("max_points_per_segment", 2) * times),
        "data.sample_segments": of_sample, "train.bptt_segments": of_sample,
        "data.curriculum": tuple(stage(*one) for one in base.data.curriculum)}


WHOLE = {"data.sample_segments": 0, "data.passed_states": 0.0, "train.bptt_segments": 0}
RUNS = {
    "base": {},
    "paper": {"model.memory.write": "paper", "train.write_cost": 0.0},
    "open": {"model.memory.write": "open", "train.write_cost": 0.0},
    "null": {"model.memory.write": "null"},
    "uncoupled": {"model.memory.coupled_gates": False},
    "blind": {"model.memory.gates_see_slot": False},
    "routed": {"model.memory.coupled_gates": False, "model.memory.gates_see_slot": False,
               "model.memory.forget_gate_bias": 3.0},
    "cost_0": {"train.write_cost": 0.0},
    "cost_0.03": {"train.write_cost": 0.03},
    "cost_0.3": {"train.write_cost": 0.3},
    "cost_1": {"train.write_cost": 1.0},
    "early_cost_0.1": {"train.write_cost_from": 0},
    "early_cost_0.3": {"train.write_cost": 0.3, "train.write_cost_from": 0},
    "short": {"data.curriculum": rivals.get_config().data.curriculum[:-1]},
    "dense": WHOLE,
    "sparse": WHOLE | {"data.max_points": 10},
    "cut": WHOLE | {"train.bptt_segments": 8},
    "window_0": {"model.attention_window": 0},
    "window_48": {"model.attention_window": 48},
    "write_top_2": {"model.memory.write_top_k": 2},
    "slot_keys": {"model.memory.slot_keys": True},
    "untied": {"model.memory.tied_addressing": False},
    "gates_fast": {"train.gate_learning_rate_factor": 3.0, "train.decay_gates": False},
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
    "forget_-2": {"model.memory.forget_gate_bias": -2.0},
    "forget_2": {"model.memory.forget_gate_bias": 2.0},
    "top_k_4": {"model.memory.top_k": 4},
}


def get_config(name: str = "base") -> ConfigDict:
    if name not in RUNS:
        raise ValueError(f"there is no run {name}; the runs are {', '.join(RUNS)}")
    config = rivals.get_config("lm2")
    config.update_from_flattened_dict(EVAL | RUNS[name])
    return config
