"""Decode the JSON of an event, also when it contains bytes or escapes that are no text."""

import json
from typing import TypeVar

import msgspec

from worker.models.failures import failure

T = TypeVar("T")


def decode_event(decoder: "msgspec.json.Decoder[T]", data: bytes, secrets: tuple[str, ...]) -> T:
    """Return the decoded event.

    Halves of surrogate pairs in escapes remain in the texts, for `join_surrogates`; bytes that are no UTF-8 become
    U+FFFD. Raises ModelFailure (`garbage`) when the data is no JSON or has another shape.
    """
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # also raised for a lone surrogate, which some models write
    try:
        return msgspec.convert(json.loads(data.decode("utf-8", "replace")), decoder.type)
    except (ValueError, RecursionError) as error:  # msgspec.ValidationError is a ValueError
        raise failure(
            "garbage", f"cannot read the model's answer: {error}", in_stream=True, secrets=secrets
        ) from None
