"""Reads and writes safetensors files: the only file that imports safetensors.

Files are memory-mapped for reading, and written one tensor at a time.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from lm2_jax.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16),
          "F16": np.dtype(np.float16)}
SHARD_BYTES = 4 * 10**9


class Tensors:
    """The tensors of the safetensors files in a folder.

    Attributes:
      shapes: {name: shape}.
      dtypes: {name: "F32", "BF16", "F16", ...}.

    Raises:
      UserError: if there are no such files, or one of them is damaged or missing.
    """

    def __init__(self, folder: Path):
        self._slices = {}
        for path in _files(folder):
            try:
                with safe_open(path, framework="np") as file:
                    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} cannot be read as safetensors: {error}") from error
            if twice := sorted(slices.keys() & self._slices):
                raise UserError(f"{path} has tensors that another file has too: "
                                + ", ".join(twice))
            self._slices |= slices
        self.shapes = {name: tuple(part.get_shape()) for name, part in self._slices.items()}
        self.dtypes = {name: part.get_dtype() for name, part in self._slices.items()}

    def read(self, name: str, *index: slice) -> np.ndarray:
        """Returns a part of a tensor, a slice for each axis, in its dtype."""
        return self._slices[name][index]


class ToWrite(NamedTuple):
    """A tensor that `write` writes.

    Attributes:
      name, shape: as stored.
      dtype: "F32", "BF16" or "F16".
      values: returns the array, of any float dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * DTYPES[self.dtype].itemsize


def write(partial: Path, tensors: Iterable[ToWrite], shard_bytes: int = SHARD_BYTES) -> None:
    """Writes tensors to one file, or to several with an index if they are larger than
    `shard_bytes` together.

    Args:
      partial: a local folder, as `runtime.files.new_folder` yields it.
    """
    shards: list[list[ToWrite]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.bytes for t in shards[-1]) + tensor.bytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        _write_file(partial / SINGLE, shards[0])
        return
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors"
             for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_file(partial / name, shard)
    index = {"metadata": {"total_size": sum(t.bytes for shard in shards for t in shard)},
             "weight_map": {tensor.name: name for name, shard in zip(names, shards, strict=True)
                            for tensor in shard}}
    (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _write_file(partial: Path, tensors: Sequence[ToWrite]) -> None:
    """The library's own writer takes all tensors of a file at once, which would need their memory.

    The format: the length of the header as 8 bytes, a JSON header padded to a multiple of 8 bytes,
    then the tensors one after the other.
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape,
                               "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(partial, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            values = np.ascontiguousarray(tensor.values().astype(DTYPES[tensor.dtype]))
            if values.shape != tensor.shape:
                raise ValueError(f"{tensor.name} has shape {values.shape}, not {tensor.shape}")
            file.write(values.reshape(-1).view(np.uint8).data)


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file() and (folder / INDEX).is_file():
        raise UserError(f"{folder} has both {SINGLE} and {INDEX}; delete the one that is not of "
                        "the model")
    if (folder / INDEX).is_file():
        try:
            index = json.loads((folder / INDEX).read_text("utf-8"))
            names = sorted(set(index["weight_map"].values()))
            inside = all(Path(name).name == name for name in names)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / INDEX} is not an index of safetensors files: {error}"
                            ) from error
        if not inside or not names:
            raise UserError(f"{folder / INDEX} must name files in its own folder")
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise UserError(f"{folder} lacks files that {INDEX} names: {', '.join(missing)}")
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise UserError(f"{folder} has {len(found)} safetensors files and no {INDEX}, which says "
                        "which of them belong together")
    pickles = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLES]
    raise UserError(f"{folder} has no safetensors files" + (
        f"; {', '.join(pickles)} may be pickles, which can run code and are never read. Save the "
        "model as safetensors, as save_pretrained of transformers does" if pickles else ""))
