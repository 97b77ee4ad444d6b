"""Reads what a request carries: bodies into shapes, words into numbers, with errors that say what would be right."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from protocol.errors import BadInput

T = TypeVar("T")


def read(body: bytes, shape: type[T], *, is_optional: bool = False) -> T:
    """The body as `shape`. Raises BadInput naming the field; an empty body is `shape()` where it is optional."""
    if not body.strip():
        if is_optional:
            return shape()
        raise BadInput("cannot read the request: it has no body; send a JSON object")
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"cannot read the request: {error}") from error


def number(args: Mapping[str, str], name: str, *, default: int, highest: int) -> int:
    """A count from the query, between 0 and `highest`. Raises BadInput."""
    text = args.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise BadInput(f"cannot use {name}={text[:40]!r}; send a number")
    return min(int(text), highest)
