"""JAX's persistent cache of compiled programs, on by default for the commands."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache


def enable() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, for the next start.

    A folder that is configured (JAX_COMPILATION_CACHE_DIR) is left as it is, and
    JAX_ENABLE_COMPILATION_CACHE=0 switches the cache off. A folder that cannot be written costs a
    warning of JAX, no more.
    """
    config: Any = jax.config  # which gets its options as attributes at run time
    if config.jax_compilation_cache_dir is None and config.jax_enable_compilation_cache:
        config.update("jax_compilation_cache_dir", str(default_folder()))


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """A context, or a decorator, in which every program is compiled, so that this can be timed."""
    config: Any = jax.config
    before = config.jax_enable_compilation_cache
    try:
        config.update("jax_enable_compilation_cache", False)
        reset_cache()  # JAX asks the setting once
        yield
    finally:
        config.update("jax_enable_compilation_cache", before)
        reset_cache()


def default_folder() -> Path:
    """Returns $XDG_CACHE_HOME/lm2_jax/compiled/CPU, by default below ~/.cache.

    CPU stands for the processor: a program that was compiled for another one, whose home folder
    is the same, may not run here.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return home / "lm2_jax" / "compiled" / hashlib.sha256(_processor().encode()).hexdigest()[:12]


def _processor() -> str:
    """The architecture and, where Linux reports them, the features of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    features = [line for line in lines if line.lower().startswith(("flags", "features"))]
    return platform.machine() + (features or lines or [""])[0]
