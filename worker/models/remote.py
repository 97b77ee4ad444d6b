"""Call a model: send the request of its wire, decode the response as it arrives, and keep the deadlines.

Two deadlines apply: until the first event, and between two events. Both count what the decoder understood and not
bytes, to detect a server that only keeps the connection alive (L03). Nothing is retried here.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial

from protocol.limits import Limits
from worker.models.client import Category, ModelEvent, ModelFailure, ModelRequest, TextDelta, ThinkingDelta
from worker.models.failures import failure
from worker.models.transport.deadline import Deadline, DeadlinePassed
from worker.models.transport.provider_http import ProviderHttp
from worker.models.transport.response import ProviderResponse, TransportError
from worker.models.transport.sse import EVENT_MAX_BYTES, Event, EventParser, TooLong
from worker.models.wires.http_errors import failure_of, parse_error
from worker.models.wires.wire import StreamDecoder, Wire, WireContext

ERROR_MAX_BYTES = 64 * 1024
OK = 200


class RemoteModel:
    """One configured model of one provider."""

    def __init__(
        self,
        wire: Wire,
        http: ProviderHttp,
        *,
        context: WireContext,
        limits: Limits,
        key_hint: str,
        socket: str,
    ) -> None:
        """`key_hint` says where to put a correct key. `socket` is the path of a local model's Unix socket, "" for
        others."""
        self.model = context.model
        self.provider_id = context.provider.id
        self.is_flat_rate = context.provider.flat_rate
        self._wire = wire
        self._http = http
        self._limits = limits
        self._secrets = context.secrets
        self._key_hint = key_hint
        self._socket = socket

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Send the request once; see `ModelClient`."""
        deadline = Deadline(self._limits.model_first_event_s)
        response = await self._open(request)
        try:
            deadline.start(partial(response.interrupt, DeadlinePassed()))
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if response.status != OK or kind == "text/html":
                raise await self._refused(response, deadline)
            decoder = self._wire.decoder()
            chunk = await self._read(response, deadline, has_begun=False)
            if kind == "application/json" and chunk.lstrip()[:1] in b"{[":  # some streams are declared as JSON, too
                for event in await self._whole(chunk, response, decoder, deadline):
                    yield event
                return
            parser = EventParser()
            while True:
                seen = decoder.progress
                events, problem = self._decoded(chunk, parser, decoder)
                for event in events:
                    yield event
                if problem is not None:
                    raise problem
                if not chunk or decoder.is_complete:
                    break
                if decoder.progress != seen:
                    deadline.move(self._limits.model_progress_s)
                chunk = await self._read(response, deadline, has_begun=decoder.progress > 0)
            last = decoder.end()
            response.release()  # now: the consumer may take its time with the last events
            for event in last:
                yield event
        finally:
            deadline.stop()
            response.abort()  # without effect after `release`

    async def _open(self, request: ModelRequest) -> ProviderResponse:
        first_s = self._limits.model_first_event_s
        try:
            async with asyncio.timeout(first_s):
                return await self._http.open(self._wire.request(request), self._socket)
        except TransportError as error:
            raise self._fail(error.category, error.message, has_begun=False) from None
        except TimeoutError:
            raise self._too_slow(has_begun=False) from None

    async def _read(self, response: ProviderResponse, deadline: Deadline, *, has_begun: bool) -> bytes:
        deadline.is_waiting = True
        try:
            return await response.read()
        except TransportError as error:
            raise self._fail("stream_cut" if has_begun else error.category, error.message, has_begun) from None
        except DeadlinePassed:
            raise self._too_slow(has_begun) from None
        finally:
            deadline.is_waiting = False

    def _decoded(
        self, chunk: bytes, parser: EventParser, decoder: StreamDecoder
    ) -> tuple[list[ModelEvent], ModelFailure | None]:
        """Return the events in the bytes of one read, b"" at the end, and the failure that ends them."""
        events: list[ModelEvent] = []
        try:
            pending: list[Event] = parser.feed(chunk) if chunk else parser.end()
            for name, data in pending:
                events += decoder.event(name, data)
                if decoder.is_complete:
                    break
        except ModelFailure as error:
            return merged(events), error
        except TooLong as error:
            return merged(events), self._fail("garbage", f"cannot read the model's answer: {error}", has_begun=True)
        return merged(events), None

    async def _whole(
        self, first: bytes, response: ProviderResponse, decoder: StreamDecoder, deadline: Deadline
    ) -> Sequence[ModelEvent]:
        """Return the events of a response that is JSON instead of a stream, of which `first` was read.

        Raises ModelFailure if it is an error.
        """
        body = first + await self._body(response, deadline, EVENT_MAX_BYTES)
        if parse_error(body).message:
            raise failure_of(OK, response.headers, body, key_hint=self._key_hint, secrets=self._secrets)
        events = decoder.event("", body)
        events += decoder.end()
        response.release()
        return events

    async def _refused(self, response: ProviderResponse, deadline: Deadline) -> ModelFailure:
        """Return the failure for an error status, or for a web page instead of an answer."""
        try:
            body = await self._body(response, deadline, ERROR_MAX_BYTES)
        except ModelFailure:
            body = b""  # the status says enough
        response.release()
        if response.status == OK:
            text = parse_error(body).message
            return self._fail(
                "garbage", f"the provider answered with a web page ({text}); check base_url", has_begun=False
            )
        return failure_of(response.status, response.headers, body, key_hint=self._key_hint, secrets=self._secrets)

    async def _body(self, response: ProviderResponse, deadline: Deadline, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while size < limit and (part := await self._read(response, deadline, has_begun=False)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)[:limit]

    def _too_slow(self, has_begun: bool) -> ModelFailure:
        limit_s = self._limits.model_progress_s if has_begun else self._limits.model_first_event_s
        return self._fail("timeout", f"the model sent nothing for {limit_s:g} s", has_begun)

    def _fail(self, category: Category, message: str, has_begun: bool) -> ModelFailure:
        return failure(category, message, in_stream=has_begun, secrets=self._secrets)


def merged(events: list[ModelEvent]) -> list[ModelEvent]:
    """Return the events with neighbouring deltas of the same kind joined: what one read brought is one change."""
    if len(events) < 2:
        return events
    joined: list[ModelEvent] = []
    texts: list[str] = []
    kind: type[TextDelta] | type[ThinkingDelta] = TextDelta
    for event in events:
        if isinstance(event, TextDelta | ThinkingDelta):
            if texts and type(event) is not kind:
                joined.append(kind("".join(texts)))
                texts = []
            kind = type(event)
            texts.append(event.text)
            continue
        if texts:
            joined.append(kind("".join(texts)))
            texts = []
        joined.append(event)
    if texts:
        joined.append(kind("".join(texts)))
    return joined
