"""The device mesh."""

from dataclasses import dataclass

from lm2_jax.config.checks import require


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes inside a slice; -1 infers one from the number of devices.

    Where several are -1, rows are split as many ways as the batches allow, over fsdp first, and
    heads over tensor take the rest. A slice is a set of TPU chips that are wired to each other;
    slices reach each other over the network of the data centre.
    """

    data: int = -1
    """Devices that split the rows of a batch."""
    fsdp: int = 1
    """Devices that split the rows and the parameters."""
    tensor: int = 1
    """Devices that split attention heads and hidden features."""
    dcn_data: int = -1
    """Slices that split the rows of a batch, each with a copy of the parameters, so that only
    gradients cross the network; -1 takes the slices that there are."""
    dcn_fsdp: int = 1
    """Slices that split the rows and the parameters, so that parameters cross the network too."""
    stage: int = 1
    """Number of pipeline stages over which the blocks are split. The stages read consecutive
    segments at the same time, by the wavefront schedule."""

    def __post_init__(self):
        for name in ("data", "fsdp", "tensor", "dcn_data"):
            size = getattr(self, name)
            require(size == -1 or size >= 1, f"mesh.{name}", size, "-1 or at least 1")
        require(self.dcn_fsdp >= 1, "mesh.dcn_fsdp", self.dcn_fsdp, "at least 1")
        require(self.stage >= 1, "mesh.stage", self.stage, "at least 1")
