"""Define the checks from which shapes are built: what the statically typed decoder of the client accepts.

A check receives a value and its path in the document, and raises ShapeError. It is stricter than the decoder where the
server has no reason to use the decoder's leniency: null, duplicate keys, keys that differ by case only.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

Check = Callable[[Any, str], None]
_FAR_S = 100_000_000_000
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


class ShapeError(AssertionError):
    """Raised for a value that the client could not decode; the text says where and why."""


def parse(text: bytes | str, where: str = "body") -> Any:
    """Parse JSON in UTF-8; reject NaN, duplicate keys and trailing data."""
    try:
        decoded = text if isinstance(text, str) else text.decode()
        return json.loads(decoded, object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError as error:
        raise ShapeError(f"{where}: {error}: {text[:200]!r}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    decoded = dict(pairs)
    if len(decoded) != len(pairs):
        raise ValueError(f"duplicate key among {[key for key, _ in pairs]}")
    return decoded


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def expect(is_valid: bool, where: str, expected: str, value: Any) -> None:
    """Raise ShapeError, with what was `expected`, unless the value is valid."""
    if not is_valid:
        raise ShapeError(f"{where}: expected {expected}, not {str(value)[:120]!r} ({type(value).__name__})")


def string(value: Any, where: str) -> None:
    expect(isinstance(value, str), where, "a string", value)


def filled(value: Any, where: str) -> None:
    expect(isinstance(value, str) and value != "", where, "a non-empty string", value)


def integer(value: Any, where: str) -> None:
    expect(type(value) is int and -(2**63) <= value < 2**63, where, "a 64-bit integer literal", value)


def seconds(value: Any, where: str) -> None:
    """Check Unix seconds; a time in milliseconds would be thousands of years ahead."""
    integer(value, where)
    expect(0 <= value < _FAR_S, where, "Unix seconds", value)


def milliseconds(value: Any, where: str) -> None:
    """Check Unix milliseconds; a time in seconds would be in 1970."""
    integer(value, where)
    expect(value >= _FAR_S, where, "Unix milliseconds", value)


def number(value: Any, where: str) -> None:
    expect(type(value) in (int, float), where, "a number", value)


def boolean(value: Any, where: str) -> None:
    expect(type(value) is bool, where, "a boolean", value)


def padded_base64(value: Any, where: str) -> None:
    string(value, where)
    try:
        base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ShapeError(f"{where}: expected padded standard Base64: {error}") from error


def absolute(value: Any, where: str) -> None:
    """Check an absolute path."""
    string(value, where)
    expect(value.startswith("/"), where, "an absolute path", value)


def date_time(value: Any, where: str) -> None:
    filled(value, where)
    expect(_RFC_3339.fullmatch(value) is not None, where, "a date-time of RFC 3339 with a zone", value)
    try:
        datetime.fromisoformat(value)
    except ValueError as error:
        raise ShapeError(f"{where}: expected RFC 3339: {error}") from error


def anything(value: Any, where: str) -> None:
    return


def an_object(value: Any, where: str) -> None:
    expect(isinstance(value, dict), where, "an object", value)


def nothing(value: Any, where: str) -> None:
    expect(value is None, where, "no body", value)


def one_of(*allowed: str) -> Check:
    """Make a check for one of these strings."""

    def check(value: Any, where: str) -> None:
        expect(value in allowed, where, f"one of {allowed}", value)

    return check


def any_of(*allowed: int) -> Check:
    """Make a check for one of these integers."""

    def check(value: Any, where: str) -> None:
        integer(value, where)
        expect(value in allowed, where, f"one of {allowed}", value)

    return check


def or_null(inner: Check) -> Check:
    """Make a check for a value or null."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def list_of(inner: Check) -> Check:
    """Make a check for a list whose items pass `inner`."""

    def check(value: Any, where: str) -> None:
        expect(isinstance(value, list), where, "a list", value)
        for index, item in enumerate(value):
            inner(item, f"{where}[{index}]")

    return check


def map_of(inner: Check, *keys: str) -> Check:
    """Make a check for an object whose values pass `inner`; with `keys`, it may have no others."""

    def check(value: Any, where: str) -> None:
        expect(isinstance(value, dict), where, "an object", value)
        for key, item in value.items():
            expect(not keys or key in keys, where, f"one of the keys {keys}", key)
            inner(item, f"{where}.{key}")

    return check


def shape(required: dict[str, Check], optional: dict[str, Check] | None = None) -> Check:
    """Make a check for an object with all `required` and any `optional` keys.

    Unknown keys are allowed unless they differ from a known one by case only.
    """
    known = required | (optional or {})
    lower = {key.casefold(): key for key in known}

    def check(value: Any, where: str) -> None:
        expect(isinstance(value, dict), where, "an object", value)
        for key in required:
            if key not in value:
                raise ShapeError(f"{where}: the key {key!r} is missing; the keys are {sorted(value)}")
        for key, item in value.items():
            if key in known:
                known[key](item, f"{where}.{key}")
            elif key.casefold() in lower:
                raise ShapeError(f"{where}: {key!r} would be read as {lower[key.casefold()]!r}")

    return check


def both(*checks: Check) -> Check:
    """Make a check that runs all of these in order."""

    def check(value: Any, where: str) -> None:
        for each in checks:
            each(value, where)

    return check


def strings(*names: str) -> dict[str, Check]:
    return dict.fromkeys(names, string)


def integers(names: Iterable[str]) -> dict[str, Check]:
    return dict.fromkeys(names, integer)
