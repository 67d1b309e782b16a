"""LM2, RMT, ARMT, DeltaNet, Llama and RAG compared on the same batches, with equal parameters.

    lm2 train --config=rivals:lm2 --workdir=runs/rivals/lm2_seed0

The name after the colon is the model:

  lm2    a bank of 16 slots in each of the three blocks
  rmt    16 memory tokens at both ends of a segment
  armt   16 memory tokens that write to an associative memory in each block
  delta  a gated DeltaNet layer of two heads beside the attention of each block
  llama  attention within the segment only
  window attention to the last one or two segments, as all memories have beside them
  full   attention to 16k earlier tokens; RoPE base 1000, since it looks further back
  rag    the model `full`, evaluated on five sentences of the context that BM25 retrieves

Numbers of parameters are equal within 1 %. Every model gets the same batch at every step (no stage
ends early) and the same held-out samples. The task is qa1 with two persons, as in quickstart.py,
evaluated at 0k to 128k. Samples have up to 192 tokens. Rows of the last stage hold four of them,
each of which begins with the memory that the one before left; no gradient flows from one to the
other. Memories that can stay closed have a cost of being open in that stage. Models with a memory
have no attention window in rows of two segments, whose questions attention could answer in the
place of the memory. Train every model with three seeds; then evaluate RAG, compare, and measure the
gates:

  lm2 sweep --config=rivals --out=runs/rivals --seeds=0,1,2
  cp -r runs/rivals/full_seed0 runs/rivals/rag_seed0
  lm2 eval --config=rivals:rag --workdir=runs/rivals/rag_seed0
  lm2 report runs/rivals/{lm2,rmt,armt,delta,llama,window,full,rag}_seed0 \\
      --out=runs/rivals_report \\
      --names="LM2,RMT,ARMT,DeltaNet,one segment,window,full attention,RAG over full attention"
  lm2 gates --config=rivals:lm2 --workdir=runs/rivals/lm2_seed0 --samples=10

MODEL_TASK names a model on another task, such as lm2_qa2, with as many tokens:

  qa2      answers that take two facts, which do not fit into one segment
  qa3      three facts, in segments of 48 tokens
  mixture  the same segments; qa1 to qa5 with three persons, and kv: key-value recall, where any of
           all facts may be asked for

  lm2 sweep --config=rivals --out=runs/rivals_mixture --seeds=0,1,2 \\
      --runs=lm2_mixture,rmt_mixture,armt_mixture,delta_mixture,window_mixture
"""

from ml_collections import ConfigDict

# Models whose memory has fewer parameters have a wider MLP.
RUNS = {
    "lm2": dict(mlp_dim=256, memory=dict(kind="lm2")),
    "rmt": dict(mlp_dim=600, memory=dict(kind="rmt")),
    "armt": dict(mlp_dim=536, memory=dict(kind="armt", key_dim=32)),
    "delta": dict(mlp_dim=376, memory=dict(kind="delta", num_heads=2, key_dim=64)),
    "llama": dict(mlp_dim=600, memory=dict(num_layers=0), attention_window=0),
    "window": dict(mlp_dim=600, memory=dict(num_layers=0)),
    "full": dict(mlp_dim=600, memory=dict(num_layers=0), attention_window=16384,
                 rope_theta=1000.0),
}
MODELS = RUNS | {"rag": RUNS["full"]}  # which is not trained a second time
# Facts of one answer do not fit into a segment.
TWO_FACTS = {"data.curriculum": ((0, 2, 20), (450, 3, 16), (700, 4, 12), (1000, 8, 8),
                                 (2400, 32, 2)),
             "eval.lengths": ("192", "512", "1k", "4k"), "eval.max_samples": ()}
THREE_FACTS = TWO_FACTS | {
    "model.segment_length": 48, "data.points_per_segment": 1.5,
    "data.sample_segments": 4, "train.bptt_segments": 4,
    "data.curriculum": ((0, 2, 10), (700, 3, 8), (1000, 4, 8), (2400, 16, 2))}
TASKS = {
    "qa1": {},
    "qa2": TWO_FACTS | {"data.tasks": ("qa2",)},
    "qa3": THREE_FACTS | {"data.tasks": ("qa3",)},
    "mixture": THREE_FACTS | {
        "data.tasks": ("qa1", "qa2", "qa3", "qa4", "qa5", "kv"), "data.persons": 3,
        "eval.lengths": ("192", "1k", "4k"), "eval.num_samples": 100},
}


def get_config(name: str = "lm2") -> ConfigDict:
    name, _, task = name.partition("_")
    if name not in MODELS or (task or "qa1") not in TASKS:
        raise ValueError(f"there is no run {name}{task and f'_{task}'}; the models are "
                         f"{', '.join(MODELS)}, the tasks {', '.join(TASKS)}")
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        embed_dim=128, num_layers=3, num_heads=4, num_kv_heads=4, segment_length=24,
        attention_window=24, rope_theta=10.0) | MODELS[name]
    config.model.memory = dict(
        num_slots=16, num_heads=4, num_layers=3, output_gate_bias=-1.0) | MODELS[name]["memory"]
    config.data = dict(
        tasks=("qa1",), tokenizer_vocab_size=512, persons=2, turns_up_to=2,
        points_per_segment=1.0, questions_per_point=2, deferred=True, bare_fraction=0.5,
        vary_length=False, sample_segments=8, passed_states=1.0,
        curriculum=((0, 1, 30), (200, 2, 20), (450, 3, 16), (700, 4, 12), (1000, 8, 8),
                    (2400, 32, 2)))
    config.train = dict(
        num_steps=3000, learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=50,
        weight_decay=0.01, remat_segments=False, bptt_segments=8)
    config.checkpoint = dict(every_steps=300)
    config.eval = dict(
        lengths=("0k", "192", "1k", "4k", "16k", "64k", "128k"), num_samples=300,
        max_samples=(300, 300, 300, 300, 100, 30, 30), reset_up_to="4k", batch_size=50)
    if config.model.memory.get("kind") in ("lm2", "armt", "delta"):
        config.train.write_cost, config.train.write_cost_from = 0.1, 2400
    if config.model.memory.num_layers:
        config.train.window_from_segments = 3
    else:
        config.eval.memory = ("carried",)
    if config.model.attention_window > 24:  # a row holds keys and values of up to 16k tokens
        config.eval.batch_size = 10
    if name == "full":
        config.eval.lengths, config.eval.max_samples = (
            values[:-2] for values in (config.eval.lengths, config.eval.max_samples))
    if name == "rag":
        config.eval.retrieve = 5
    config.update_from_flattened_dict(TASKS[task or "qa1"])
    if config.model.attention_window == 24:
        config.model.attention_window = config.model.segment_length
    if config.model.rope_theta == 10.0:
        config.model.rope_theta = 10.0 * config.model.segment_length / 24
    return config
