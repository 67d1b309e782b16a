"""Checks of configured values; a message names the key, its value and what would be right."""

from lm2_jax.errors import UserError


class KeyRefused(UserError):
    """A key, or its value, cannot be used; `key` is its full name, as "train.num_steps"."""

    def __init__(self, key: str, message: str):
        super().__init__(message)
        self.key = key


def require(condition: bool, key: str, value, wanted: str) -> None:
    """Raises KeyRefused unless the condition holds."""
    if not condition:
        raise KeyRefused(key, f"{key} is {value!r}; it must be {wanted}")


def at_least(config, prefix: str, minimum, *names: str) -> None:
    """Requires these fields of a section to be `minimum` or more."""
    for name in names:
        value = getattr(config, name)
        require(value >= minimum, f"{prefix}.{name}", value, f"at least {minimum}")


def one_of(config, prefix: str, name: str, choices) -> None:
    """Requires a field of a section to be one of the choices."""
    value = getattr(config, name)
    require(value in choices, f"{prefix}.{name}", value, "one of " + ", ".join(choices))
