"""Checks of configured values; a message names the key, what it is and what would be right."""

from lm2_jax.errors import UserError


def require(condition: bool, key: str, value, wanted: str) -> None:
    if not condition:
        raise UserError(f"{key} is {value!r}; it must be {wanted}")


def at_least(config, prefix: str, minimum, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value >= minimum, f"{prefix}.{name}", value, f"at least {minimum}")


def one_of(config, prefix: str, name: str, choices) -> None:
    value = getattr(config, name)
    require(value in choices, f"{prefix}.{name}", value, "one of " + ", ".join(choices))
