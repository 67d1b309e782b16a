"""Training: steps, optimizer, micro-batches, rematerialisation."""

from dataclasses import dataclass

from lm2_jax.config.checks import at_least, one_of, require
from lm2_jax.config.model import DTYPES


@dataclass(frozen=True)
class TrainConfig:
    """The training loop and its optimizer, AdamW with linear warmup and cosine decay."""

    num_steps: int = 1000
    """Number of optimizer steps."""
    batch_size: int = 32
    """Rows of the global batch, in stages of data.curriculum that give none."""
    advance_accuracy: float = 0.0
    """Held-out accuracy at which a curriculum stage ends early; 0 never ends one early."""
    advance_every: int = 25
    """Steps between measurements of held-out accuracy."""
    learning_rate: float = 1e-3
    """Peak learning rate, reached after the warmup."""
    final_learning_rate: float = 1e-4
    """Learning rate at the last step."""
    warmup_steps: int = 100
    """Steps of linear warmup from 0."""
    weight_decay: float = 0.01
    """AdamW's weight decay; norm scales and biases are not decayed."""
    gate_learning_rate_factor: float = 1.0
    """The gates of a memory (input, forget and output gate, route; the write gate of armt; none of
    delta) learn at this multiple of the learning rate."""
    decay_gates: bool = True
    """Whether the weight decay applies to the gates of a memory too."""
    beta1: float = 0.9
    """AdamW's decay rate of the first moment."""
    beta2: float = 0.98
    """AdamW's decay rate of the second moment."""
    moments_dtype: str = "float32"
    """Dtype in which AdamW's moments are kept: float32, or bfloat16, which takes half the memory;
    they are computed in float32."""
    clip_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    trainable: tuple[str, ...] = ()
    """Patterns over the paths of parameters, such as `*/memory/*`; those that match one of them are
    trained, and the others stay as they are and take no memory of the optimizer. Empty trains all.
    """
    accumulate_steps: int = 1
    """Micro-batches per step, whose gradients are accumulated."""
    rows_per_device: int = 0
    """Rows per device and micro-batch, which sets their number; 0 uses accumulate_steps."""
    loss_chunk_tokens: int = 0
    """Tokens per row whose logits are computed at a time; 0 takes a whole segment."""
    bptt_segments: int = 0
    """Segments that backpropagation through time goes back; 0 is all of them."""
    remat_segments: bool = True
    """Whether the backward pass recomputes each segment, to save memory."""
    write_cost: float = 0.0
    """Cost of opening the whole memory to a segment, per row and block, in nats; half of it if the
    memory is half open. It is added to the summed loss, so that the memory stays closed to text
    that need not be remembered. LM2 with a null or routed write, ARMT and DeltaNet have it;
    other memories have none."""
    write_cost_from: int = 0
    """First step at which write_cost counts."""
    window_from_segments: int = 0
    """Attention sees model.attention_window in rows of at least so many segments. In shorter rows
    only the memory crosses from one segment to the next, so that the memory has to learn.
    Evaluations have the window at every length."""
    eval_every_steps: int = 0
    """Steps between evaluations during training; 0 evaluates at the end only."""
    held_out_batches: int = 8
    """Batches of the held-out split of data.corpora, in rows of the last stage, whose loss is
    measured every train.eval_every_steps and at the end; 0 measures none."""
    stall_seconds: float = 600.0
    """Seconds without progress after which a watchdog reports where each process is; 0 is never."""

    def check_every(self) -> int:
        """Steps between evaluations that may end a stage; 0 = no stage ends early."""
        return self.advance_every if self.advance_accuracy else 0

    def __post_init__(self):
        at_least(self, "train", 1, "num_steps", "batch_size", "accumulate_steps",
                 "advance_every")
        require(0 <= self.advance_accuracy <= 1, "train.advance_accuracy",
                self.advance_accuracy, "in [0, 1]")
        at_least(self, "train", 0, "warmup_steps", "weight_decay", "bptt_segments",
                 "eval_every_steps", "held_out_batches", "final_learning_rate", "stall_seconds",
                 "rows_per_device", "loss_chunk_tokens", "write_cost", "write_cost_from",
                 "window_from_segments")
        require(self.accumulate_steps == 1 or not self.rows_per_device, "train.accumulate_steps",
                self.accumulate_steps, "1 where train.rows_per_device is set")
        for name in ("learning_rate", "clip_norm", "gate_learning_rate_factor"):
            require(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "above 0")
        one_of(self, "train", "moments_dtype", DTYPES)
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"train.{name}", getattr(self, name),
                    "in [0, 1)")
