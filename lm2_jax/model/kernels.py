"""What depends on the backend: attention kernels, and how far loops are unrolled."""

from typing import Literal, cast

import jax

CPU_UNROLL = 8


def unroll(length: int) -> int:
    """How many steps of a scan over blocks or segments make one step of the compiled loop.

    Up to CPU_UNROLL on one CPU device, where loops hinder the compiler; 1 on accelerators, and on
    a mesh of several CPU devices, which stand in for accelerators. In a mesh the mesh decides, so
    that a program can be traced on a CPU for other devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        on_cpu = jax.default_backend() == "cpu"
    else:
        device = getattr(mesh, "abstract_device", None)  # None: of no known kind
        on_cpu = mesh.size == 1 and device is not None and device.platform == "cpu"
    return min(CPU_UNROLL, length) if on_cpu else 1


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array,
              implementation: str = "xla") -> jax.Array:
    """Grouped-query attention, softmax(q k^T / sqrt(H)) v where the mask is True.

    Args:
      mask_BTS: bool; a token whose row is all False gets a finite value of no meaning.
      implementation: "xla" anywhere, "cudnn" on NVIDIA GPUs in bfloat16 or float16.

    Returns:
      [B, T, N, H] in the dtype of q.
    """
    if implementation == "cudnn" and jax.default_backend() != "gpu":
        raise ValueError(f"model.attention_implementation is 'cudnn' on {jax.default_backend()}; "
                         "it needs an NVIDIA GPU, use 'xla' here")
    name = cast(Literal["xla", "cudnn"], implementation)
    return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask_BTS[:, None],
                                        implementation=name)
