"""A run in one small file, which another machine continues.

The file is a NumPy archive (.npz). It holds the parameters in bfloat16, as arrays of uint16, the
checkpoint's JSON object (step, position in the curriculum, digests of data and tokenizer), and the
workdir's small files. It does not hold the optimizer's moments, which would triple its size.
"""

import json
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import META, Checkpointer
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import appended, files, paths
from lm2_jax.types import Params

FILES = ("*.json", "*.jsonl", "eval/*.json", "eval/*.jsonl",
         f"{workdirs.SOURCE}/*")  # of the workdir
PARAM = "params/"


def pack(workdir: str | Path, file: str | Path, step: int | None = None) -> int:
    """Writes a checkpoint of a run to a file; returns its step.

    Args:
      step: None = the newest one that is valid.

    Raises:
      UserError: if there is no such checkpoint.
    """
    workdir = paths.of(workdir)
    _, params, step = workdirs.load_checkpoint(workdir, step)
    meta = Checkpointer(workdir).meta(step)
    with files.replacing(file) as partial, zipfile.ZipFile(partial, "w") as archive:
        archive.writestr(META, json.dumps(meta))
        for path in sorted(path for pattern in FILES for path in workdir.glob(pattern)):
            content = appended.read(path) if path.suffix == ".jsonl" else path.read_bytes()
            archive.writestr(path.relative_to(workdir).as_posix(), content, zipfile.ZIP_DEFLATED)
        for name, leaf in traverse_util.flatten_dict(params, sep="/").items():
            with archive.open(f"{PARAM}{name}.npy", "w") as entry:
                np.lib.format.write_array(
                    entry, np.asarray(leaf.astype(jnp.bfloat16)).view(np.uint16))
    return step


def unpack(file: str | Path, workdir: str | Path) -> tuple[Params, dict]:
    """Writes the small files of a packed run to a workdir; returns its variables and the
    checkpoint's JSON object.

    Returns:
      The variables, NumPy arrays of float32, and the object, whose "next_step" is the step.

    Raises:
      UserFileNotFoundError: if there is no such file.
      UserError: if it is not a packed run.
    """
    workdir = paths.of(workdir)
    if not paths.of(file).exists():
        raise UserFileNotFoundError(f"there is no file {file}")
    try:
        with (files.reading(paths.of(file)) as local, zipfile.ZipFile(local) as archive):
            meta = json.loads(archive.read(META))
            params = {name.removeprefix(PARAM).removesuffix(".npy"): _read(archive, name)
                      for name in archive.namelist() if name.startswith(PARAM)}
            archive.extractall(workdir, [name for name in archive.namelist()
                                         if name != META and not name.startswith(PARAM)])
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{file} is not a run written by `lm2 pack`, or is damaged: {error}"
                        ) from error
    return traverse_util.unflatten_dict(params, sep="/"), meta


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as entry:
        return np.asarray(np.lib.format.read_array(entry).view(jnp.bfloat16), np.float32)
