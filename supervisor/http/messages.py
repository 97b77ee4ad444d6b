"""Define the request and response that handlers receive and return, and turn errors into JSON responses."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream

from protocol.api.server import ErrorBody
from protocol.base.logs import fields
from protocol.errors import BadInput, BulkheadError, Internal
from protocol.ids import ClientId, RandomSource, is_uuid, new_uuid
from supervisor.http.routes import MethodUnknown, Route

T = TypeVar("T")
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response. A body is JSON."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Request:
    """One request with its complete body."""

    def __init__(
        self,
        *,
        route: Route,
        params: dict[str, str],
        query: str,
        headers: HTTPHeaders,
        body: bytes,
        version: str,
        detach: Callable[[], IOStream],
    ) -> None:
        self.route = route
        self.params = params
        self.headers = headers
        self.body = body
        self.version = version
        self.detach = detach
        """Take over the connection; the handler then writes to it itself and returns None."""
        self._query_text = query
        self._query: dict[str, str] | None = None

    @property
    def query(self) -> dict[str, str]:
        """Return the query parameters; the first value counts when one is repeated. Raises BadInput."""
        if self._query is None:
            try:
                pairs = parse_qsl(self._query_text, keep_blank_values=True, max_num_fields=64, errors="strict")
            except (ValueError, UnicodeDecodeError):
                raise BadInput("cannot read the query: it must be UTF-8 with at most 64 parameters") from None
            self._query = dict(reversed(pairs))
        return self._query

    def json(self, kind: type[T]) -> T:
        """Decode the body as `kind`. Raises BadInput naming the field."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"cannot read the body: {error}; it must be a JSON object") from None

    def client_id(self, *, given: str | None = None) -> ClientId:
        """Return the id of the calling client: `given`, else the query's `client_id`. Raises BadInput."""
        text = self.query.get("client_id", "") if given is None else given
        if not is_uuid(text):
            raise BadInput("cannot identify the client: `client_id` must be a UUID")
        return ClientId(text)


Handler = Callable[[Request], Awaitable[Response | None]]


def json_response(value: Any, status: int = 200) -> Response:
    """Return a response with `value` as its JSON body."""
    return Response(status, _encoder.encode(value))


def error_response(error: BulkheadError) -> Response:
    """Return the response for an error."""
    headers = {}
    if isinstance(error, MethodUnknown):
        headers["Allow"] = ", ".join(error.allowed)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503 or (error.status == 504 and error.retry_after_s is not None):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s or 1.0)))
    body = _encoder.encode(ErrorBody(message=error.message, code=error.code))
    return Response(error.status, body, headers)


def unexpected(error: Exception, log: logging.Logger, random: RandomSource, where: str) -> Internal:
    """Log an unexpected exception with its traceback; return an error that only carries the id of the log line."""
    error_id = new_uuid(random)[:8]
    log.error("request failed", exc_info=error, extra=fields(id=error_id, request=where))
    return Internal(f"internal error in the server; its log has the details under the id {error_id}")
