"""The model: a Llama-3 decoder that reads segments, its memory, and its rotary positions."""

from dataclasses import dataclass, field

from lm2_jax.config.checks import at_least, one_of, require

MEMORY_KINDS = ("lm2", "rmt", "armt", "delta")
ROUTED_WRITES = ("null", "routed")
MEMORY_WRITES = ("paper", "open", *ROUTED_WRITES)
OF_LM2 = ("write", "coupled_gates", "gates_see_slot", "write_top_k", "slot_keys",
          "tied_addressing", "top_k", "forget_gate_bias", "output_gate_bias",
          "bank_dtype")  # keys of lm2 alone
DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "dots", "full")
ATTENTION_IMPLEMENTATIONS = ("auto", "xla", "chunked", "cudnn", "splash")
SCHEDULES = ("sequential", "wavefront", "auto")


@dataclass(frozen=True)
class MemoryConfig:
    """The memory: lm2 (arXiv 2502.06049), rmt (arXiv 2207.06881), armt (arXiv 2407.04841) or delta
    (gated DeltaNet, arXiv 2412.06464)."""

    kind: str = "lm2"
    """The kind of memory: lm2, rmt, armt or delta."""
    num_slots: int = 16
    """Slots of a memory bank (lm2), or memory tokens of a segment (rmt, armt)."""
    num_layers: int = 0
    """Number of blocks that have a memory, counted from the first; 0 makes a plain Llama."""
    num_heads: int = 4
    """Attention heads of the memory's read and write (lm2), or heads of the layer (delta)."""
    write: str = "routed"
    """How a segment is written (lm2): paper, as in the paper; open, which differs by the two keys
    below; null or routed, which also write a slot only as far as the segment's tokens match it.
    Only routed leaves a slot exactly as it is where no token matches it."""
    coupled_gates: bool = True
    """Whether the input gate is 1 - the forget gate (lm2), so that what is written replaces as much
    of the slot; false for the paper's write."""
    gates_see_slot: bool = True
    """Whether the gates of a slot see its content beside what is to be written: the forget gate,
    and an input gate of its own (lm2); false for the paper's write."""
    write_top_k: int = 0
    """Each head writes only the k slots that match the segment best, and those equal to them (lm2
    with a null or routed write); 0 lets it write all of them."""
    slot_keys: bool = False
    """Whether a slot is also found by a learnt key of its own, which no write changes (lm2)."""
    tied_addressing: bool = True
    """Whether the write finds slots by the queries and keys of the read (lm2); otherwise it has
    its own."""
    top_k: int = 0
    """Each token reads only its k best-matching slots (lm2); 0 lets it read all of them."""
    forget_gate_bias: float | None = None
    """Initial bias of the forget gate (lm2). None takes 3 for the paper's write, which so keeps
    95 % of a slot's content per segment, and 0 for the others."""
    output_gate_bias: float = -2.0
    """Initial bias of the output gate (lm2); the default starts with the gate nearly closed."""
    bank_dtype: str = "float32"
    """Dtype of a bank between segments (lm2): float32, or bfloat16, which halves the memory that
    backpropagation through time needs for the banks, but rounds them after each segment; a slot to
    which nothing is written stays as it is."""
    key_dim: int = 64
    """Size of a key before the feature map expands it to six times as many features (armt), or of
    a head's keys (delta)."""

    def __post_init__(self):
        one_of(self, "model.memory", "kind", MEMORY_KINDS)
        one_of(self, "model.memory", "write", MEMORY_WRITES)
        one_of(self, "model.memory", "bank_dtype", DTYPES)
        if self.write == "paper":
            object.__setattr__(self, "coupled_gates", False)
            object.__setattr__(self, "gates_see_slot", False)
        if self.forget_gate_bias is None:
            object.__setattr__(self, "forget_gate_bias", 3.0 if self.write == "paper" else 0.0)
        at_least(self, "model.memory", 1, "num_slots", "num_heads", "key_dim")
        at_least(self, "model.memory", 0, "num_layers", "top_k", "write_top_k")
        for name in ("top_k", "write_top_k"):
            require(getattr(self, name) <= self.num_slots, f"model.memory.{name}",
                    getattr(self, name), f"at most model.memory.num_slots = {self.num_slots}")
        require(not self.write_top_k or self.write in ROUTED_WRITES,
                "model.memory.write_top_k", self.write_top_k,
                "0 unless model.memory.write is null or routed")

    @property
    def closes(self) -> bool:
        """Whether the memory can leave out a segment, so that train.write_cost can ask it to."""
        return self.num_layers > 0 and (self.kind in ("armt", "delta") or (
            self.kind == "lm2" and self.write in ROUTED_WRITES))

    @property
    def unused(self) -> tuple[str, ...]:
        """Keys of this group that change nothing for this kind of memory."""
        return () if self.kind == "lm2" and self.num_layers else OF_LM2


@dataclass(frozen=True)
class RopeScaling:
    """Llama-3's scaling of rotary frequencies; it is off unless one of these keys is set."""

    factor: float = 32.0
    """Low frequencies are divided by this factor."""
    low_freq_factor: float = 1.0
    """Wavelengths above original_max_position / low_freq_factor are scaled in full."""
    high_freq_factor: float = 4.0
    """Wavelengths below original_max_position / high_freq_factor are not scaled."""
    original_max_position: int = 8192
    """Context length in tokens before scaling."""

    def __post_init__(self):
        at_least(self, "model.rope_scaling", 1.0, "factor", "low_freq_factor")
        require(self.high_freq_factor > self.low_freq_factor,
                "model.rope_scaling.high_freq_factor", self.high_freq_factor,
                f"above low_freq_factor = {self.low_freq_factor}")
        at_least(self, "model.rope_scaling", 1, "original_max_position")


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-3 decoder that reads a sequence in segments, with a memory in its first blocks."""

    vocab_size: int = 0
    """Size of the vocabulary; 0 takes the tokenizer's, rounded up to a multiple of 128 if
    `data.tokenizer` is a file."""
    embed_dim: int = 128
    """Width of the residual stream."""
    num_layers: int = 3
    """Number of transformer blocks."""
    num_heads: int = 4
    """Number of query heads."""
    num_kv_heads: int = 4
    """Number of key and value heads; fewer than num_heads is grouped-query attention."""
    mlp_dim: int = 384
    """Hidden size of the SwiGLU MLP."""
    segment_length: int = 64
    """Tokens of a segment, within which attention is causal."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    head_dim: int = 0
    """Size of an attention head; 0 takes embed_dim / num_heads."""
    attention_window: int = 0
    """Tokens of earlier segments that attention also sees, through cached keys and values."""
    rope_theta: float = 500_000.0
    """Base of the rotary position embedding."""
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    """Epsilon of every RMSNorm."""
    tie_embeddings: bool = True
    """Whether the output projection shares the embedding matrix."""
    dropout: float = 0.0
    """Dropout rate of what attention, memory and MLP add to the residual stream."""
    dtype: str = "float32"
    """Compute dtype: float32 or bfloat16; parameters and memory state are float32 (but see
    memory.bank_dtype)."""
    remat: str = "none"
    """What the backward pass recomputes in a block: none, dots (all but matmuls
    with weights) or full."""
    attention_implementation: str = "auto"
    """Kernel of attention and of the memory's read and write (lm2): splash (TPUs), cudnn (NVIDIA
    GPUs), xla (every backend; holds the affinities of all queries and keys at once), chunked (every
    backend; computes them in chunks), or auto, which takes the kernel of the platform where it can,
    else xla or, if the affinities are large, chunked. A read of the top_k slots is always that of
    xla."""
    schedule: str = "auto"
    """Order in which segments go through the blocks: sequential; wavefront, all blocks at once,
    each on a segment of its own, with the same results; or auto, the wavefront where it is expected
    to be faster."""

    def __post_init__(self):
        at_least(self, "model", 0, "vocab_size", "head_dim", "attention_window")
        at_least(self, "model", 1, "embed_dim", "num_layers", "num_heads", "num_kv_heads",
                 "mlp_dim", "segment_length")
        require(self.num_heads % self.num_kv_heads == 0, "model.num_kv_heads",
                self.num_kv_heads, f"a divisor of model.num_heads = {self.num_heads}")
        if not self.head_dim:
            require(self.embed_dim % self.num_heads == 0, "model.num_heads", self.num_heads,
                    f"a divisor of model.embed_dim = {self.embed_dim}, or set model.head_dim")
            object.__setattr__(self, "head_dim", self.embed_dim // self.num_heads)
        require(self.head_dim % 2 == 0, "model.head_dim", self.head_dim, "even (for RoPE)")
        self._check_memory()
        require(0.0 <= self.dropout < 1.0, "model.dropout", self.dropout, "in [0, 1)")
        require(self.rope_theta > 1, "model.rope_theta", self.rope_theta, "above 1")
        require(self.norm_eps > 0, "model.norm_eps", self.norm_eps, "above 0")
        one_of(self, "model", "dtype", DTYPES)
        one_of(self, "model", "remat", REMAT_POLICIES)
        one_of(self, "model", "attention_implementation", ATTENTION_IMPLEMENTATIONS)
        one_of(self, "model", "schedule", SCHEDULES)

    @property
    def carries_tokens(self) -> bool:
        """Whether the state comes from the last block (rmt)."""
        return self.memory.kind == "rmt" and self.memory.num_layers > 0

    @property
    def stacks(self) -> tuple[int, ...]:
        """The number of blocks with a memory of their own, and that of the others; without zeros.
        """
        P = 0 if self.memory.kind == "rmt" else self.memory.num_layers
        return tuple(count for count in (P, self.num_layers - P) if count)

    def _check_memory(self) -> None:
        kind, P = self.memory.kind, self.memory.num_layers
        require(P <= self.num_layers, "model.memory.num_layers", P,
                f"at most model.num_layers = {self.num_layers}")
        if P and kind == "rmt":
            require(P == self.num_layers, "model.memory.num_layers", P,
                    f"0 or model.num_layers = {self.num_layers}: memory tokens (rmt) go through "
                    "every block")
            require(self.schedule != "wavefront", "model.schedule", self.schedule,
                    "sequential or auto for rmt, whose memory comes from the last block")
        if P and kind in ("lm2", "delta"):
            require(self.embed_dim % self.memory.num_heads == 0, "model.memory.num_heads",
                    self.memory.num_heads, f"a divisor of model.embed_dim = {self.embed_dim}")
