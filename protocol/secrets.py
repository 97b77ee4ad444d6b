"""Recognise secrets by the names of their environment variables, and mask them."""

import re

MASK = "***"

_VARIABLE = re.compile(
    r"(?:^|_)(?:API_?KEYS?|ACCESS_?KEY(?:_ID)?|PRIVATE_?KEY|TOKENS?|SECRETS?|PASSW(?:OR)?D|CREDENTIALS?)(?:$|_)"
)


def is_secret_name(name: str) -> bool:
    """Return whether a variable of this name holds a key, a token or a password."""
    return _VARIABLE.search(name.upper()) is not None


def masked_environment(entries: list[str]) -> list[str]:
    """Mask the values of secrets in `NAME=VALUE` entries; all names stay."""
    return [f"{name}={MASK}" if value and is_secret_name(name) else entry for entry, name, value in _split(entries)]


def without_masked(entries: list[str]) -> list[str]:
    """Remove masked entries from those that a client sends back: the mask is not the value."""
    return [entry for entry, name, value in _split(entries) if not (value == MASK and is_secret_name(name))]


def _split(entries: list[str]) -> list[tuple[str, str, str]]:
    return [(entry, *entry.partition("=")[::2]) for entry in entries]
