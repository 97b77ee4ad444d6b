"""Classify provider errors: their categories, the titles shown to users, and which of them may be retried.

`error_mapping.py` recognises the exceptions of the libraries and passes plain facts.
"""

from worker.models.client import Category, ModelFailure

DETAIL_LENGTH_MAX = 1000

TITLES: dict[Category, str] = {
    "auth": "Unauthorized",
    "quota": "Quota exceeded",
    "rate_limit": "Rate limit reached",
    "overloaded": "Provider overloaded",
    "server": "Provider error",
    "context_overflow": "Context too large",
    "bad_request": "Request refused",
    "not_found": "Model not found",
    "network": "Provider not reachable",
    "timeout": "Provider too slow",
    "stream_cut": "Answer cut off",
    "garbage": "Unreadable answer",
}
"""The title of the finish part of a failed message; the details are the failure's message."""

_RETRYABLE: frozenset[Category] = frozenset({"rate_limit", "overloaded", "server", "network", "stream_cut"})
_RETRYABLE_STATUS = frozenset({408, 409, 429})


def category_of_status(status: int) -> Category:
    """Return the category of an HTTP status, for errors without a clearer code of the provider."""
    match status:
        case 401 | 403:
            return "auth"
        case 402:
            return "quota"
        case 404:
            return "not_found"
        case 413:
            return "context_overflow"
        case 429:
            return "rate_limit"
        case 503 | 529:
            return "overloaded"
        case _ if status >= 500:
            return "server"
        case _:
            return "bad_request"


def is_retryable(category: Category, status: int = 0, hint: bool | None = None) -> bool:
    """Return whether repeating the request may succeed. `hint` is the provider's own statement, if it made one."""
    if hint is not None:
        return hint
    return category in _RETRYABLE or (category == "bad_request" and status in _RETRYABLE_STATUS)


def failure(
    category: Category,
    message: str,
    *,
    status: int = 0,
    code: str = "",
    hint: bool | None = None,
    retry_after_s: float | None = None,
    in_stream: bool = False,
    secrets: tuple[str, ...] = (),
) -> ModelFailure:
    """Build a failure, with `secrets` removed from its text and the text cut to the maximum length (L01)."""
    return ModelFailure(
        clean(message, secrets) or TITLES[category],
        category=category,
        title=TITLES[category],
        provider_status=status,
        provider_code=clean(code, secrets)[:100],
        retryable=is_retryable(category, status, hint),
        retry_after_s=retry_after_s,
        in_stream=in_stream,
    )


def cut_off() -> ModelFailure:
    """Build the failure for a response that ended before its own last event (L04)."""
    return failure("stream_cut", "the model's answer ended before it was complete", in_stream=True)


def clean(text: str, secrets: tuple[str, ...]) -> str:
    """Remove the secrets from `text` and cut it to the maximum length of a message."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "***")
    return text if len(text) <= DETAIL_LENGTH_MAX else text[: DETAIL_LENGTH_MAX - 1] + "…"
