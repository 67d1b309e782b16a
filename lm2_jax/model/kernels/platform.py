"""What depends on the devices that a program is traced for."""

import jax

CPU_UNROLL = 8
CPU_COPY = 2**22
GPU_FILLING = 2**22
# Compiler options for programs that read every parameter for a few tokens, as decoding does. They
# take effect on GPUs alone: XLA then reads the parameters of each block in place. By default its
# Triton kernels get copies, taken out of the arrays of all blocks, and two parameters that are
# multiplied by the same tokens are concatenated first.
DECODING_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": "0"}


def platform() -> str:
    """Returns the platform of the devices that a program is traced for; "" if it is unknown.

    The devices of the current mesh decide, if there is one, so that a program can be traced on a
    CPU for other devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend()
    device = getattr(mesh, "abstract_device", None)  # None if its kind is unknown
    return device.platform if device is not None else ""


def on_gpu() -> bool:
    """Whether a program is traced for GPUs."""
    return platform() in ("gpu", "cuda", "rocm")


def unroll(length: int, copied: int = 0) -> int:
    """Returns the `unroll` argument for a `lax.scan` of `length` blocks or segments.

    Args:
      length: of the scan.
      copied: bytes of one iteration's parameters, which XLA copies from those of all iterations
        where the loop is unrolled; 0 where that does not matter.

    On a single CPU device short loops, of at most CPU_UNROLL iterations, are unrolled whole, since
    a loop hinders XLA's CPU compiler; but not if an iteration would copy more than CPU_COPY bytes,
    which takes longer. Longer loops are not unrolled in part: that takes several times as long to
    compile, and the program is no faster. Nothing is unrolled on accelerators, nor on meshes of
    several CPU devices, which are used to test the programs of accelerators.
    """
    mesh = jax.sharding.get_abstract_mesh()
    on_cpu = platform() == "cpu" and (mesh.empty or mesh.size == 1)
    return length if on_cpu and length <= CPU_UNROLL and copied <= CPU_COPY else 1


def filling_tokens(width: int) -> int:
    """Returns the number of tokens at which one block of this embed_dim fills a device.

    With fewer tokens several blocks at once take hardly more time than one. On GPUs the number is
    GPU_FILLING / width: tiles of a matrix product are shared out over the multiprocessors. It
    follows from 1.8 times the rate of the sequential schedule, published (arXiv 2506.05229) for 16
    blocks of width 2048 at once, each with 1,152 tokens, on an A100. An H100 needs some more: 16
    blocks of that width at once, each with 2,048 tokens, took 0.92 of the time of the sequential
    schedule for 64 segments and 1.99 for 8 (configs/results/device), as if 2,700 to 2,900 tokens
    filled it. On CPUs, and on TPUs, which compute one product after the other, it is 0.
    """
    return GPU_FILLING // width if on_gpu() else 0
