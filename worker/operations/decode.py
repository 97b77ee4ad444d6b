"""Decode what a request carries: bodies into structs, texts into numbers, with errors that say what would be right."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from protocol.errors import BadInput

T = TypeVar("T")


def read(body: bytes, shape: type[T], *, is_optional: bool = False) -> T:
    """Decode the body as `shape`. An empty body is `shape()` where it is optional.

    Raises BadInput, and the errors of msgspec, which the operation table turns into one that names the field.
    """
    if not body.strip():
        if is_optional:
            return shape()
        raise BadInput("cannot read the request: it has no body; send a JSON object")
    return msgspec.json.decode(body, type=shape)


def number(args: Mapping[str, str], name: str, *, default: int, highest: int) -> int:
    """Read a count from the query, at most `highest`; `default` without one. Raises BadInput."""
    text = args.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise BadInput(f"cannot use {name}={text[:40]!r}; send a number")
    return min(int(text), highest)
