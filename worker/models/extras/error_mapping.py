"""Map the exceptions of the provider libraries to ModelFailure."""

from worker.models.client import Category, ModelFailure
from worker.models.failures import category_of_status, failure


def described(error: Exception, has_begun: bool, *, secrets: tuple[str, ...], key_hint: str) -> ModelFailure:
    """Return the failure for the exception of a library.

    `has_begun`: part of the response had arrived. `key_hint` is appended to the text of a 401.
    """
    from pydantic_ai import exceptions

    own = _own_failure(error)
    if own is not None:
        return own
    status = error.status_code if isinstance(error, exceptions.ModelHTTPError) else 0
    hint = error.provider_retry_hint if isinstance(error, exceptions.ModelHTTPError) else None
    code = ""
    retry_after_s: float | None = None
    if isinstance(error, exceptions.ModelAPIError):
        code = error.provider_error_code or error.provider_error_type or ""
        retry_after_s = error.retry_after
        has_begun = has_begun or error.in_stream
    category = _category(error, status, has_begun)
    if category == "server" and not status and code.startswith("invalid_"):
        category = "bad_request"  # an error inside the stream has no status; repeating the request would not help
    message = _message(error)
    if status == 401 and key_hint:
        message = f"{message.rstrip('. ')[:800]}; {key_hint}"
    return failure(
        category,
        message,
        status=status,
        code=code,
        hint=hint,
        retry_after_s=retry_after_s,
        in_stream=has_begun,
        secrets=secrets,
    )


def _own_failure(error: BaseException) -> ModelFailure | None:
    """Return the ModelFailure that a library caught and wrapped, if there is one."""
    link: BaseException | None = error
    for _ in range(5):
        if link is None or isinstance(link, ModelFailure):
            return link
        link = link.__cause__ or link.__context__
    return None


def _category(error: Exception, status: int, has_begun: bool) -> Category:
    """Decide by class first: the library derives it from the provider's own code, which is clearer than the status."""
    from pydantic_ai import exceptions

    classes: tuple[tuple[type[Exception], Category], ...] = (
        (exceptions.ModelTimeoutError, "timeout" if has_begun else "network"),
        (exceptions.ModelConnectionError, "stream_cut" if has_begun else "network"),
        (exceptions.ModelContextWindowExceededError, "context_overflow"),
        (exceptions.ModelAuthenticationError, "auth"),
        (exceptions.ModelNotFoundError, "not_found"),
        (exceptions.ModelQuotaExceededError, "quota"),
        (exceptions.ModelRateLimitError, "rate_limit"),
        (exceptions.ModelUnavailableError, "overloaded"),
        (exceptions.ModelServerError, "server"),
        (exceptions.ModelRequestRejectedError, "bad_request"),
        (exceptions.UserError, "bad_request"),
    )
    for kind, category in classes:
        if isinstance(error, kind):
            return category
    if status:
        return category_of_status(status)
    if isinstance(error, exceptions.ModelAPIError) and "finish_reason" in str(error):
        return "stream_cut"
    return "server" if isinstance(error, exceptions.ModelAPIError) and error.in_stream else "garbage"


def _message(error: Exception) -> str:
    """Return the provider's own message, without the library's text around it, which quotes the whole body."""
    body = getattr(error, "body", None)
    for holder in (body, body.get("error") if isinstance(body, dict) else None):
        if isinstance(holder, dict) and isinstance(holder.get("message"), str):
            return str(holder["message"])
    return str(error) or type(error).__name__
