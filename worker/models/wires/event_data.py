"""Read the JSON of one event, and nothing of it that is not declared; a bad escape or byte does not end the answer."""

import json
from typing import Any, TypeVar

import msgspec

from protocol.base.text import join_surrogates
from worker.models.failures import failure

T = TypeVar("T")


def read_event(decoder: "msgspec.json.Decoder[T]", data: bytes, secrets: tuple[str, ...]) -> T:
    """Decode one event. Raises ModelFailure (`garbage`) when it is not JSON or a declared field has another type.

    Half a surrogate pair, which some servers write when they split a character, becomes U+FFFD, and so does a byte that
    is not UTF-8. The decoder of msgspec accepts neither, so such an event is read again with the standard library.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise failure("garbage", _unreadable(error), in_stream=True, secrets=secrets) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = error
    try:
        value = _join(json.loads(data.decode("utf-8", "replace")))
        return decoder.decode(msgspec.json.encode(value))
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        raise failure("garbage", _unreadable(problem), in_stream=True, secrets=secrets) from None


def _unreadable(error: Exception) -> str:
    return f"cannot read an event of the model's answer: {error}"


def _join(value: Any) -> Any:
    match value:
        case str():
            return join_surrogates(value)
        case dict():
            return {join_surrogates(key): _join(item) for key, item in value.items()}
        case list():
            return [_join(item) for item in value]
        case _:
            return value
