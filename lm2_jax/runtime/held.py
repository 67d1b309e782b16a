"""The folders in buckets whose leases this process has, confirmed before it writes below them."""

import contextlib
from collections.abc import Callable, Iterator

from lm2_jax.runtime.store_errors import translated

_confirm: dict[str, Callable[[], None]] = {}  # by URL


def add(folder: str, confirm: Callable[[], None]) -> None:
    """Has `confirm` called before each write below the URL of a folder; it raises an OSError, or
    ends the process, if the lease may be lost."""
    _confirm[folder] = confirm


def remove(folder: str) -> None:
    """Undoes `add`, once the lease is released."""
    _confirm.pop(folder, None)


def confirm(url: str) -> None:
    """Makes sure, before something is written at a URL, that the leases of folders above are held.

    Raises:
      OSError: if one may be lost, as the store cannot be reached to renew it.
    """
    for folder, check in list(_confirm.items()):
        if f"{url}/".startswith(f"{folder}/"):
            check()


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Confirms the leases above a path, then raises what a client raises as `translated` does."""
    confirm(str(path))
    with translated(path):
        yield
