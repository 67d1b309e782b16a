"""The configuration: frozen dataclasses that refuse what cannot work.

Config files are read by `lm2_jax.config.files`; everything below it sees only these classes.
A message names the key as it stands under `config.`, what it was and what would be right.
"""

import dataclasses
import itertools
from dataclasses import dataclass, field

from lm2_jax.config.checks import at_least as _at_least
from lm2_jax.config.checks import one_of as _one_of
from lm2_jax.config.checks import require as _require
from lm2_jax.config.evaluation import EvalConfig
from lm2_jax.config.evaluation import parse_length as parse_length

MEMORY_KINDS = ("lm2", "rmt", "armt")
DTYPES = ("float32", "bfloat16", "float16")
REMAT_POLICIES = ("none", "dots", "full")
ATTENTION_IMPLEMENTATIONS = ("xla", "cudnn")
ON_FAILURE = ("stop", "continue")


@dataclass(frozen=True)
class MemoryConfig:
    """The memory: lm2 (arXiv 2502.06049), rmt (arXiv 2207.06881), armt (arXiv 2407.04841)."""

    kind: str = "lm2"
    num_slots: int = 16  # M: slots of each bank (lm2), memory tokens (rmt, armt)
    num_layers: int = 0  # blocks that have a memory, from the first; 0 = a plain Llama
    num_heads: int = 4  # lm2: heads of the read and of the write
    top_k: int = 0  # lm2: slots that a token may read; 0 = all
    key_init_scale: float = 2.0  # lm2: W_k at the start, as a multiple of W_q
    input_gate_bias: float = 0.0  # lm2
    forget_gate_bias: float = 3.0  # lm2: sigmoid(3) = 0.95 kept per segment at the start
    output_gate_bias: float = -2.0  # lm2: nearly closed, as the identity bank is noise
    key_dim: int = 64  # armt: of a key before its projection to 2 * key_order * key_dim
    key_order: int = 3  # armt: order of that projection (DPFP)

    def __post_init__(self):
        _one_of(self, "model.memory", "kind", MEMORY_KINDS)
        _at_least(self, "model.memory", 1, "num_slots", "num_heads", "key_dim", "key_order")
        _at_least(self, "model.memory", 0, "num_layers", "top_k")
        _require(self.key_init_scale > 0, "model.memory.key_init_scale", self.key_init_scale,
                 "above 0")
        _require(self.top_k <= self.num_slots, "model.memory.top_k", self.top_k,
                 f"at most model.memory.num_slots = {self.num_slots}")


@dataclass(frozen=True)
class RopeScaling:
    """Llama-3's scaling of the rotary frequencies to contexts beyond the trained ones."""

    factor: float = 32.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192

    def __post_init__(self):
        _at_least(self, "model.rope_scaling", 1.0, "factor", "low_freq_factor")
        _require(self.high_freq_factor > self.low_freq_factor,
                 "model.rope_scaling.high_freq_factor", self.high_freq_factor,
                 f"above low_freq_factor = {self.low_freq_factor}")
        _at_least(self, "model.rope_scaling", 1, "original_max_position")


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-3 decoder that reads segments, with a memory beside its first blocks."""

    vocab_size: int = 0  # V; 0 in a config file = the tokenizer's
    embed_dim: int = 128  # D
    num_layers: int = 3
    num_heads: int = 4  # N
    num_kv_heads: int = 4  # K
    mlp_dim: int = 384  # F
    segment_length: int = 64  # T, tokens that attention sees at once
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    head_dim: int = 0  # H; 0 = embed_dim / num_heads
    attention_window: int = 0  # tokens of the last segments that attention still sees
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    embedding_std: float = 0.0  # of the embeddings at the start; 0 = 1 / sqrt(embed_dim)
    dropout: float = 0.0  # of what attention, memory and mlp add to the stream
    dtype: str = "float32"  # of the computation; parameters and banks are float32
    remat: str = "none"  # what the backward pass recomputes inside a block
    attention_implementation: str = "xla"

    def __post_init__(self):
        _at_least(self, "model", 0, "vocab_size", "head_dim", "attention_window",
                  "embedding_std")
        _at_least(self, "model", 1, "embed_dim", "num_layers", "num_heads", "num_kv_heads",
                  "mlp_dim", "segment_length")
        _require(self.num_heads % self.num_kv_heads == 0, "model.num_kv_heads",
                 self.num_kv_heads, f"a divisor of model.num_heads = {self.num_heads}")
        if not self.head_dim:
            _require(self.embed_dim % self.num_heads == 0, "model.num_heads", self.num_heads,
                     f"a divisor of model.embed_dim = {self.embed_dim}, or set model.head_dim")
            object.__setattr__(self, "head_dim", self.embed_dim // self.num_heads)
        _require(self.head_dim % 2 == 0, "model.head_dim", self.head_dim, "even (for RoPE)")
        _require(self.memory.num_layers <= self.num_layers, "model.memory.num_layers",
                 self.memory.num_layers, f"at most model.num_layers = {self.num_layers}")
        kind, P = self.memory.kind, self.memory.num_layers
        if P and kind == "rmt":
            _require(P == self.num_layers, "model.memory.num_layers", P,
                     f"0 or model.num_layers = {self.num_layers}: memory tokens (rmt) go through "
                     "every block")
        if P and kind != "lm2":
            _require(not self.attention_window, "model.attention_window", self.attention_window,
                     f"0 with the memory tokens of model.memory.kind = {kind}")
        if P and kind == "lm2":
            _require(self.embed_dim % self.memory.num_heads == 0, "model.memory.num_heads",
                     self.memory.num_heads, f"a divisor of model.embed_dim = {self.embed_dim}")
        _require(0.0 <= self.dropout < 1.0, "model.dropout", self.dropout, "in [0, 1)")
        _require(self.rope_theta > 1, "model.rope_theta", self.rope_theta, "above 1")
        _require(self.norm_eps > 0, "model.norm_eps", self.norm_eps, "above 0")
        _one_of(self, "model", "dtype", DTYPES)
        _one_of(self, "model", "remat", REMAT_POLICIES)
        _one_of(self, "model", "attention_implementation", ATTENTION_IMPLEMENTATIONS)


@dataclass(frozen=True)
class DataConfig:
    """What the samples are made of, and how long they are."""

    tasks: tuple[str, ...] = ("qa1",)
    task_weights: tuple[float, ...] = ()  # how often a sample is of each task; () = evenly
    babi: str = ""  # folder of bAbI files; "" = the simulator
    background: str = "generated"  # folder of books, .txt, .jsonl, .parquet; or the generator
    background_sentences: int = 20_000  # how many the generator makes
    min_sentence_tokens: int = 4  # shorter background sentences are left out
    tokenizer: str = "word"  # word | bpe: trained on the data; or a tokenizer.json
    tokenizer_vocab_size: int = 4096  # at most, for a trained one
    persons: int = 0  # simulator: the first so many persons of the task; 0 = all
    turns_up_to: int = 0  # simulator: samples of so many segments have persons act in turns
    points_per_segment: float = 0.0  # simulator: question points a segment; 0 = a bAbI story
    questions_per_point: int = 1  # simulator: questions asked at each point, if deferred
    dense: bool = True  # ask each question where the story does; else one, at the end
    deferred: bool = False  # ask in a later segment than the facts before
    bare_fraction: float = 0.0  # of the samples, that have facts and questions alone
    loss_on_all: float = 0.0  # weight of the tokens that are not answers
    vary_length: bool = True  # samples of 1..n segments, all alike often; else all have n
    # (first step, segments a row[, rows]); without rows train.batch_size
    curriculum: tuple[tuple[int, ...], ...] = ((0, 1),)
    num_threads: int = 1  # that make batches ahead
    num_workers: int = 0  # processes that make batches ahead

    def __post_init__(self):
        _require(len(self.tasks) > 0, "data.tasks", self.tasks, "at least one task")
        _require(len(self.task_weights) in (0, len(self.tasks))
                 and all(weight > 0 for weight in self.task_weights), "data.task_weights",
                 self.task_weights, "a number above 0 for each of data.tasks, or ()")
        _at_least(self, "data", 0, "persons", "points_per_segment", "loss_on_all",
                  "num_workers", "turns_up_to")
        _at_least(self, "data", 1, "questions_per_point", "background_sentences",
                  "min_sentence_tokens", "num_threads")
        _at_least(self, "data", 8, "tokenizer_vocab_size")
        _require(0 <= self.bare_fraction <= 1, "data.bare_fraction", self.bare_fraction,
                 "in [0, 1]")
        _require(all(len(stage) in (2, 3) and min(stage[1:]) >= 1 for stage in self.curriculum)
                 and [s[0] for s in self.curriculum[:1]] == [0]
                 and all(a[0] < b[0] for a, b in itertools.pairwise(self.curriculum)),
                 "data.curriculum", self.curriculum,
                 "(first step, segments) or (first step, segments, rows) a stage, the steps "
                 "rising from 0, the others >= 1")

    def segments_at(self, step: int) -> int:
        """Segments of a row at this step."""
        return self._stage_at(step)[1]

    def rows_at(self, step: int, batch_size: int) -> int:
        """Rows of the batch at this step, where `batch_size` is the configured one."""
        return (*self._stage_at(step), batch_size)[2]

    def _stage_at(self, step: int) -> tuple[int, ...]:
        return [stage for stage in self.curriculum if stage[0] <= step][-1]


@dataclass(frozen=True)
class TrainConfig:
    num_steps: int = 1000
    batch_size: int = 32  # rows over all devices, where data.curriculum names none
    advance_accuracy: float = 0.0  # of held-out answers, at which a stage ends early; 0 = never
    advance_patience: int = 0  # looks without a rise of it, after which a stage ends; 0 = never
    advance_every: int = 25  # steps between looks
    advance_batches: int = 4  # held-out batches of the stage in a look
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4
    warmup_steps: int = 100
    weight_decay: float = 0.01  # not on norms and biases
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0
    accumulate_steps: int = 1  # micro-batches a step
    # Of a micro-batch, as many as that makes (so dropout follows the mesh); 0 = accumulate_steps.
    rows_per_device: int = 0
    loss_chunk_tokens: int = 0  # whose logits are there at once; 0 = those of a segment
    bptt_segments: int = 0  # segments that the gradient goes back through; 0 = all
    remat_segments: bool = True  # recompute each segment in the backward pass
    eval_every_steps: int = 0  # 0 = only at the end
    stall_seconds: float = 600.0  # in one phase, after which the watchdog speaks; 0 = never
    tensorboard: bool = True

    def __post_init__(self):
        _at_least(self, "train", 1, "num_steps", "batch_size", "accumulate_steps",
                  "advance_every", "advance_batches")
        _require(0 <= self.advance_accuracy <= 1, "train.advance_accuracy",
                 self.advance_accuracy, "in [0, 1]")
        _at_least(self, "train", 0, "warmup_steps", "weight_decay", "bptt_segments",
                  "eval_every_steps", "final_learning_rate", "advance_patience", "stall_seconds",
                  "rows_per_device", "loss_chunk_tokens")
        _require(self.accumulate_steps == 1 or not self.rows_per_device, "train.accumulate_steps",
                 self.accumulate_steps, "1 where train.rows_per_device is set")
        for name in ("learning_rate", "clip_norm"):
            _require(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "above 0")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"train.{name}", getattr(self, name),
                     "in [0, 1)")


@dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int = 500
    keep: int = 3  # the newest so many
    asynchronous: bool = True
    on_failure: str = "stop"  # the run, or "continue": say that a save failed, and train on

    def __post_init__(self):
        _at_least(self, "checkpoint", 1, "every_steps", "keep")
        _one_of(self, "checkpoint", "on_failure", ON_FAILURE)


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the axes; -1: what the others leave, or, of several, what `partition` makes it."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        for name in ("data", "fsdp", "tensor"):
            size = getattr(self, name)
            _require(size == -1 or size >= 1, f"mesh.{name}", size, "-1 or at least 1")


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        _require(0 <= self.seed < 2**31, "seed", self.seed, "in [0, 2**31)")
        for rows in self.batch_sizes():
            _require(rows % self.train.accumulate_steps == 0, "train.accumulate_steps",
                     self.train.accumulate_steps, f"a divisor of every batch size, also {rows}")
        chunk, T = self.train.loss_chunk_tokens, self.model.segment_length
        _require(not chunk or T % chunk == 0, "train.loss_chunk_tokens", chunk,
                 f"0 or a divisor of model.segment_length = {T}")

    def batch_sizes(self) -> list[int]:
        """Rows of a batch in each stage of the curriculum."""
        return [self.data.rows_at(stage[0], self.train.batch_size)
                for stage in self.data.curriculum]


def with_vocab_size(config: Config, vocab_size: int) -> Config:
    """The config with the tokenizer's vocabulary; one set by hand must be large enough."""
    if config.model.vocab_size:
        _require(config.model.vocab_size >= vocab_size, "model.vocab_size",
                 config.model.vocab_size, f"0 or at least the tokenizer's {vocab_size}")
        return config
    model = dataclasses.replace(config.model, vocab_size=vocab_size)
    return dataclasses.replace(config, model=model)
