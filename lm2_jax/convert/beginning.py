"""A run that begins with the weights of a Llama: its shape, its tokenizer, its variables."""

import dataclasses
from pathlib import Path

from jax.sharding import Mesh

from lm2_jax.checkpoint import transplant
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.config import ModelConfig
from lm2_jax.convert import importing, llama
from lm2_jax.errors import UserError
from lm2_jax.runtime import processes
from lm2_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What a new run begins with.

    Attributes:
      init_from: WORKDIR or WORKDIR:STEP, "" = none.
      init_from_hf: folder of the transformers library, "" = none.

    Raises:
      UserError: if both are given.
    """

    init_from: str = ""
    init_from_hf: str = ""

    def __post_init__(self):
        if self.init_from and self.init_from_hf:
            raise UserError("--init-from and --init-from-hf: a run begins with the weights of one "
                            "model; give one of them")

    def __bool__(self) -> bool:
        return bool(self.init_from or self.init_from_hf)

    def shape(self, workdir: Path) -> dict[str, object]:
        """Returns {key: value} of the config's keys that the Llama decides; {} without a Llama.

        It runs no JAX, since the processes of the run have not joined yet.

        Args:
          workdir: of the run; if it has begun with a Llama, the shape is that of its own config.
        """
        folder = transplant.split_source(self.init_from)[0]
        if (workdir / workdirs.SOURCE).is_dir() and (workdir / "config.json").exists():
            return llama.shape(workdirs.stored_config(workdir).model)
        if self.init_from_hf:
            return llama.shape(importing.read_config(importing.local_copy(self.init_from_hf))[2])
        if self.init_from and (folder / workdirs.SOURCE).is_dir():
            return llama.shape(workdirs.stored_config(folder).model)
        return {}

    def tokenizer(self) -> Path | None:
        """Returns the tokenizer.json with which a new run begins; None = the configured one."""
        if self.init_from_hf:
            return importing.local_copy(self.init_from_hf) / "tokenizer.json"
        return transplant.tokenizer_of(self.init_from)

    def weights(self, model: ModelConfig, workdir: Path, params: Params, shardings: Params,
                mesh: Mesh) -> tuple[Params, list[str]]:
        """Replaces new variables by those of the model that the run begins with.

        The layer through which a new memory's read is added (`Kind.output`) becomes 0 if that
        model is a Llama of the transformers library, so that the first step computes what the
        Llama computes in the same segments, bit for bit (lm2, delta). The values that ARMT writes
        are 0 at first, so its logits differ by rounding alone. RMT's do differ, since its memory
        tokens are attended to from the first segment on.

        Args:
          model: of the run.
          params, shardings: of the new model; `params` are donated.

        Returns:
          The variables, and lines for the user.

        Raises:
          UserError: if the models differ in their shape.
        """
        if not self.init_from_hf:
            kept = transplant.split_source(self.init_from)[0] / workdirs.SOURCE
            if kept.is_dir() and processes.is_primary():
                importing.keep(kept, workdir)
            return transplant.weights_from(self.init_from, workdir, params, shardings, mesh,
                                           model if kept.is_dir() else None)
        source = importing.Source(self.init_from_hf)
        here, there = llama.shape(model), llama.shape(source.model)
        if differences := [f"{key} is {here[key]!r}, there {there[key]!r}"
                           for key in here if here[key] != there[key]]:
            raise UserError(f"--init-from-hf={self.init_from_hf}: " + "; ".join(differences))
        if processes.is_primary():
            importing.keep(source.folder, workdir)
        params, lines = transplant.begin_with(
            source.variables(mesh), {"workdir": self.init_from_hf, "step": None}, workdir, params,
            shardings, mesh, model)
        return params, [*source.notes, *lines]
