"""Define the error classes and their stable codes. A message says what failed, why, and what would be right.

    BulkheadError
     ├─ BadInput      400 bad_input, 413 too_large, 405 method_not_allowed, 408 request_timeout
     ├─ Denied        401 unauthorized, 403 forbidden
     ├─ NotFound      404 workspace_unknown, session_unknown, run_unknown, route_unknown, …
     ├─ Conflict      409 workspace_closing, client_retired, not_attached, busy, …
     ├─ LimitReached  429, one code for each limit; 507 storage_full
     ├─ Unavailable   503 worker_lost, worker_starting, worker_failed, server_exiting; 504 deadline
     ├─ Upstream      502 provider_…, mcp_failed
     └─ Internal      500 internal

Codes never change; texts may. A cancellation is an outcome, not an error.
"""

from collections.abc import Mapping
from typing import ClassVar

import msgspec


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it is sent between processes."""

    code: str
    message: str
    status: int
    retryable: bool = False
    retry_after_s: float | None = None
    details: dict[str, str] = {}


class BulkheadError(Exception):
    """An expected failure. `status` is the matching HTTP status; `retryable` means that a retry is safe."""

    default_code: ClassVar[str] = "internal"
    default_status: ClassVar[int] = 500
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.status = status or STATUS_BY_CODE.get(self.code, self.default_status)
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after_s = retry_after_s
        self.details = dict(details or {})

    def info(self) -> ErrorInfo:
        """Return this error in the form that is sent between processes."""
        return ErrorInfo(
            code=self.code,
            message=self.message,
            status=self.status,
            retryable=self.retryable,
            retry_after_s=self.retry_after_s,
            details=self.details,
        )


class BadInput(BulkheadError):
    """The request is invalid; the message names the field and what would be right."""

    default_code, default_status = "bad_input", 400


class Denied(BulkheadError):
    """The caller is not authenticated or not allowed to do this."""

    default_code, default_status = "unauthorized", 401


class NotFound(BulkheadError):
    """The named object does not exist."""

    default_code, default_status = "not_found", 404


class Conflict(BulkheadError):
    """The request is valid, but not in the current state."""

    default_code, default_status = "conflict", 409


class LimitReached(BulkheadError):
    """A limit was reached; its name is the code."""

    default_code, default_status = "limit_reached", 429


class Unavailable(BulkheadError):
    """The request cannot be answered now; a retry is safe and may succeed."""

    default_code, default_status, default_retryable = "unavailable", 503, True


class Upstream(BulkheadError):
    """A model provider failed after all retries, or an MCP server failed."""

    default_code, default_status = "provider_failed", 502


class Internal(BulkheadError):
    """A bug in Bulkhead. The log has the details under the id in the message."""

    default_code, default_status = "internal", 500


CODES: dict[str, tuple[type[BulkheadError], int]] = {
    "bad_input": (BadInput, 400),
    "too_large": (BadInput, 413),
    "method_not_allowed": (BadInput, 405),
    "empty_prompt": (BadInput, 400),
    "session_missing": (BadInput, 400),
    "agent_not_ready": (BadInput, 400),
    "headers_too_large": (BadInput, 431),
    "request_timeout": (BadInput, 408),
    "unauthorized": (Denied, 401),
    "forbidden": (Denied, 403),
    "not_found": (NotFound, 404),
    "route_unknown": (NotFound, 404),
    "workspace_unknown": (NotFound, 404),
    "session_unknown": (NotFound, 404),
    "run_unknown": (NotFound, 404),
    "conflict": (Conflict, 409),
    "workspace_closing": (Conflict, 409),
    "workspace_moved": (Conflict, 409),
    "client_retired": (Conflict, 409),
    "not_attached": (Conflict, 409),
    "not_idle": (Conflict, 409),
    "busy": (Conflict, 409),
    "run_id_reused": (Conflict, 409),
    "no_longer_asked": (Conflict, 409),
    "reset": (Conflict, 409),
    "limit_reached": (LimitReached, 429),
    "queue_full": (LimitReached, 429),
    "too_many_clients": (LimitReached, 503),
    "too_many_workspaces": (LimitReached, 429),
    "too_many_calls": (LimitReached, 429),
    "storage_full": (LimitReached, 507),
    "unavailable": (Unavailable, 503),
    "worker_lost": (Unavailable, 503),
    "worker_starting": (Unavailable, 503),
    "worker_failed": (Unavailable, 503),
    "server_exiting": (Unavailable, 503),
    "storage_failed": (Unavailable, 503),
    "storage_busy": (Unavailable, 503),
    "deadline": (Unavailable, 504),
    "provider_failed": (Upstream, 502),
    "mcp_failed": (Upstream, 502),
    "internal": (Internal, 500),
}
"""Every code with its class and its HTTP status."""

STATUS_BY_CODE = {code: status for code, (_, status) in CODES.items()}


def from_info(info: ErrorInfo) -> BulkheadError:
    """Return the error that `info` describes, of the class of its code; Internal for an unknown code."""
    cls, _ = CODES.get(info.code, (Internal, 500))
    return cls(
        info.message,
        code=info.code,
        status=info.status,
        retryable=info.retryable,
        retry_after_s=info.retry_after_s,
        details=info.details,
    )
