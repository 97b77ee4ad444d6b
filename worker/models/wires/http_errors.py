"""Turn the errors of providers into ModelFailure: refused requests, and error events within a stream.

The shapes of errors: OpenAI `{"error": {message, type, code}}`, Anthropic `{"type": "error", "error": {type, message}}`,
llama.cpp like OpenAI with a number as code, `{"detail": …}` of servers built on FastAPI, plain text and HTML of proxies.
"""

from collections.abc import Mapping
from typing import Any

from worker.models.client import ModelFailure


def failure_of(
    status: int, headers: Mapping[str, str], body: bytes, *, key_hint: str, secrets: tuple[str, ...]
) -> ModelFailure:
    """Return the failure for a response with an error status, or one with an error instead of a stream (status 200).

    The names of `headers` are matched without regard to case only if the mapping does so. `key_hint` is appended to the
    text of a 401.
    """
    raise NotImplementedError


def in_stream_failure(error: Any, *, secrets: tuple[str, ...], fallback: str = "") -> ModelFailure:
    """Return the failure for the error of an event within a stream.

    `error` is the decoded error: an object with `message`, `type`, `code` (all optional), or a text. `fallback` is the
    message when it has none.
    """
    raise NotImplementedError
