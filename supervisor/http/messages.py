"""The request and the answer: what a handler gets and gives, and how an error becomes JSON."""

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
    """A whole answer. A body is JSON."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Request:
    """One request whose body was read completely, within the limits."""

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
        """Take the connection over; the handler then returns None and nobody else writes."""
        self._query_text = query
        self._query: dict[str, str] | None = None

    @property
    def query(self) -> dict[str, str]:
        """The query; of a word given twice the first counts. Raises BadInput."""
        if self._query is None:
            try:
                pairs = parse_qsl(self._query_text, keep_blank_values=True, max_num_fields=64, errors="strict")
            except (ValueError, UnicodeDecodeError):
                raise BadInput("cannot read the query: it must be UTF-8 with at most 64 words") from None
            self._query = dict(reversed(pairs))
        return self._query

    def json(self, kind: type[T]) -> T:
        """The body as `kind`. Raises BadInput naming the field."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"cannot read the body: {error}; it must be a JSON object") from None

    def client_id(self, *, given: str | None = None) -> ClientId:
        """The id of the calling client, from the query unless `given`. Raises BadInput."""
        text = self.query.get("client_id", "") if given is None else given
        if not is_uuid(text):
            raise BadInput("cannot tell who calls: `client_id` must be a UUID")
        return ClientId(text)


Handler = Callable[[Request], Awaitable[Response | None]]


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as the JSON body of an answer."""
    return Response(status, _encoder.encode(value))


def error_response(error: BulkheadError) -> Response:
    """The answer that tells of this error."""
    headers = {}
    if isinstance(error, MethodUnknown):
        headers["Allow"] = ", ".join(error.allowed)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s or 1.0)))
    body = _encoder.encode(ErrorBody(message=error.message, code=error.code))
    return Response(error.status, body, headers)


def unexpected(error: Exception, log: logging.Logger, random: RandomSource, where: str) -> Internal:
    """A bug of ours: the story goes into the log, its id to the client."""
    story = new_uuid(random)[:8]
    log.error("request failed", exc_info=error, extra=fields(id=story, request=where))
    return Internal(f"something went wrong here; the log tells more under the id {story}")
