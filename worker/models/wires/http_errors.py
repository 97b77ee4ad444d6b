"""Turn the errors of providers into ModelFailure: refused requests, and errors within a stream.

The shapes: OpenAI `{"error": {message, type, code}}`, Anthropic `{"type": "error", "error": {type, message}}`,
llama.cpp like OpenAI with a number as code, Ollama `{"error": "text"}`, servers built on FastAPI `{"detail": …}`,
Google a list with one object, OpenRouter with the upstream's text in `metadata.raw`, and plain text or HTML of
proxies.

Categories come from the provider's own code first, which is clearer than the status; the lists of codes are those of
the providers' documentation.
"""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from protocol.base.text import join_surrogates
from worker.models.client import Category, ModelFailure
from worker.models.failures import category_of_status, failure

_QUOTA = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_error",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "exceeded_current_quota_error",
    }
)
_BY_CODE: dict[str, Category] = {
    **dict.fromkeys(_QUOTA, "quota"),
    "context_length_exceeded": "context_overflow",
    "exceed_context_size_error": "context_overflow",  # llama.cpp
    "request_too_large": "context_overflow",
    "model_not_found": "not_found",
    "not_found_error": "not_found",
    "invalid_api_key": "auth",
    "authentication_error": "auth",
    "permission_error": "auth",
    "invalid_request_error": "bad_request",
}
_STATUS_OF_CODE: dict[str, int] = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "too_many_requests": 429,
    **dict.fromkeys(_QUOTA, 429),
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "service_unavailable": 503,
    "service_unavailable_error": 503,
    "server_is_overloaded": 503,
    "overloaded": 503,
    "overloaded_error": 529,
    "server_error": 500,
    "api_error": 500,
    "timeout_error": 504,
}
"""The status that providers use for an error with this code or type, for errors that come without one."""
_OVERFLOW_TEXTS = ("maximum context length", "reduce the length of the messages", "prompt is too long")
_OVERLOADED_TEXTS = ("overloaded", "over capacity")
_FLAGGED = ("flagged_input", "reasons")
_TAG = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.S | re.I)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.S | re.I)
_TEXT_MAX = 300
UNSPECIFIC = "Provider returned error"
"""OpenRouter's text for an error whose own text is in the metadata."""


@dataclass(frozen=True, slots=True)
class ProviderError:
    """The facts of an error, as far as the provider gave them."""

    message: str = ""
    type: str = ""
    code: str = ""
    is_flagged: bool = False  # the input was rejected by a moderation

    @property
    def status(self) -> int:
        """Return the HTTP status that this error has when it has one, 0 if that is unknown."""
        for name in (self.code, self.type):
            if name in _STATUS_OF_CODE:
                return _STATUS_OF_CODE[name]
        return int(self.code) if self.code.isdigit() and len(self.code) == 3 and self.code[0] in "45" else 0

    def category(self, status: int) -> Category | None:
        """Return the category that code, type or text tell, None when only the status can."""
        for name in (self.code, self.type):
            if name in _QUOTA:
                return "quota"
        text = self.message.lower()
        if any(phrase in text for phrase in _OVERFLOW_TEXTS):
            return "context_overflow"
        if any(phrase in name.lower() for name in (self.code, self.type) for phrase in _OVERLOADED_TEXTS):
            return "overloaded"
        if status == 403 and self.is_flagged:
            return "bad_request"
        for name in (self.code, self.type):
            # The type of an error with a clearer status (`invalid_request_error` at 404) is less specific than that.
            if name in _BY_CODE and not (status and name in ("invalid_request_error", "not_found_error")):
                return _BY_CODE[name]
        return None


def failure_of(
    status: int, headers: Mapping[str, str], body: bytes, *, key_hint: str, secrets: tuple[str, ...]
) -> ModelFailure:
    """Return the failure for a refused request, or for a response of status 200 that is an error.

    `headers` must find names regardless of their case. `key_hint` is appended to the text of a 401.
    """
    error = parse_error(body)
    status = error.status if status == 200 else status
    category = error.category(status) or (category_of_status(status) if status else "server")
    message = error.message or (f"the provider answered with status {status}" if status else "")
    if status == 401 and key_hint:
        message = f"{message.rstrip('. ')[:800]}; {key_hint}"
    return failure(
        category,
        message,
        status=status,
        code=error.code or error.type,
        hint={"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower()),
        retry_after_s=retry_after_s(headers),
        secrets=secrets,
    )


def in_stream_failure(error: Any, *, secrets: tuple[str, ...], fallback: str = "") -> ModelFailure:
    """Return the failure for the error of an event within a stream.

    `error` is the decoded error: an object with `message`, `type`, `code` (all optional), or a text. `fallback` is the
    message when it has none.
    """
    facts = _facts(error)
    status = facts.status
    category = facts.category(status)
    if category is None:
        category = category_of_status(status) if status else "server"
        if category == "server" and not status and facts.code.startswith("invalid_"):
            category = "bad_request"  # repeating the request would not help
    return failure(
        category,
        facts.message or fallback or "the provider ended the answer with an error",
        status=status,
        code=facts.code or facts.type,
        in_stream=True,
        secrets=secrets,
    )


def parse_error(body: bytes) -> ProviderError:
    """Return the facts of the body of an error response, whatever its shape."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            value = json.loads(body.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return ProviderError(message=_plain(body.decode("utf-8", "replace")))
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict) and value.get("error"):
        return _facts(value["error"])
    return _facts(value)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait that the provider asks for, from `retry-after-ms` or `Retry-After`, None for none.

    `Retry-After` is a number of seconds or a date (RFC 9110).
    """
    for name, factor in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * factor
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _facts(error: Any) -> ProviderError:
    if isinstance(error, str):
        return ProviderError(message=join_surrogates(error))
    if not isinstance(error, dict):
        return ProviderError()
    message = _text(error.get("message")) or _detail(error.get("detail")) or _text(error.get("error"))
    metadata = error.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    raw = metadata.get("raw")
    if message == UNSPECIFIC and isinstance(raw, str) and raw:
        inner = parse_error(raw.encode("utf-8", "replace"))
        message = f"{message}: {inner.message or raw}"
    code = error.get("code")
    return ProviderError(
        message=message,
        type=_text(error.get("type")),
        code=str(code) if isinstance(code, str | int) and not isinstance(code, bool) else "",
        is_flagged=any(name in metadata for name in _FLAGGED),
    )


def _detail(value: Any) -> str:
    """Return the text of FastAPI's `detail`: a text, or a list of what is wrong with the request."""
    if isinstance(value, list):
        parts = [item for item in value if isinstance(item, dict)]
        places = [".".join(map(str, item["loc"])) if isinstance(item.get("loc"), list) else "" for item in parts]
        texts = [_text(item.get("msg")) for item in parts]
        return "; ".join(f"{place}: {text}" if place else text for place, text in zip(places, texts, strict=True))
    return _text(value.get("message")) if isinstance(value, dict) else _text(value)


def _text(value: Any) -> str:
    return join_surrogates(value) if isinstance(value, str) else ""


def _plain(text: str) -> str:
    """Return the text of a page: the title of HTML, else what it shows, on one line."""
    if "<" in text:
        title = _TITLE.search(text[:100_000])
        text = html.unescape(title[1] if title is not None else _TAG.sub(" ", text[:100_000]))
    return " ".join(text.split())[:_TEXT_MAX]
