"""Reads what a request carries: bodies into shapes, words into numbers, with errors that say what would be right."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from protocol.errors import BadInput

T = TypeVar("T")


def read(body: bytes, shape: type[T], *, is_optional: bool = False) -> T:
    """The body as `shape`. An empty body is `shape()` where it is optional.

    Raises BadInput, and what msgspec raises, from which the operation table makes an error that names the field.
    """
    if not body.strip():
        if is_optional:
            return shape()
        raise BadInput("cannot read the request: it has no body; send a JSON object")
    return msgspec.json.decode(body, type=shape)


def number(args: Mapping[str, str], name: str, *, default: int, highest: int) -> int:
    """A count from the query, between 0 and `highest`. Raises BadInput."""
    text = args.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise BadInput(f"cannot use {name}={text[:40]!r}; send a number")
    return min(int(text), highest)
