"""What is secret by the look of its name, and what is shown instead."""

import re

MASK = "***"

_VARIABLE = re.compile(
    r"(?:^|_)(?:API_?KEYS?|ACCESS_?KEY(?:_ID)?|PRIVATE_?KEY|TOKENS?|SECRETS?|PASSW(?:OR)?D|CREDENTIALS?)(?:$|_)"
)


def is_secret_name(name: str) -> bool:
    """Does an environment variable of this name hold a key, a token or a password (T08, X08)?"""
    return _VARIABLE.search(name.upper()) is not None


def masked_environment(entries: list[str]) -> list[str]:
    """`NAME=VALUE` entries for showing: the values of secrets are masked, all names stay."""
    return [f"{name}={MASK}" if value and is_secret_name(name) else entry for entry, name, value in _split(entries)]


def without_masked(entries: list[str]) -> list[str]:
    """What a client sends back of entries that it was shown: a masked value tells nothing, so it is left out."""
    return [entry for entry, name, value in _split(entries) if not (value == MASK and is_secret_name(name))]


def _split(entries: list[str]) -> list[tuple[str, str, str]]:
    return [(entry, *entry.partition("=")[::2]) for entry in entries]
