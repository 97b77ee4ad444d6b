"""Send requests as the real Crush client does: its connections, headers, bodies and start sequence.

The strict decoder checks each response and event. `calls` records all requests, for tests of whole traces.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.checks import api_shapes, responses
from tests.support.checks.history import ClientLog, Seen, Stream
from tests.support.clients.http_client import ConnectionLost, Response, read_body, read_chunk, read_head

REQUEST_S = 20.0
PROBE_S, HEALTH_S, READY_S, GONE_S = 0.2, 0.1, 10.0, 2.0
LOCAL_HOST = "api.crush.localhost"

RUNNING, OWN = "running", "own"
"""Result of a start: the client uses the running server, or it would start one of its own."""

_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


@dataclass(frozen=True)
class ServerAddress:
    """The address of a server in the form of `--host`, and the token required over TCP."""

    host: str
    token: str = ""

    @property
    def is_tcp(self) -> bool:
        return self.host.startswith("tcp://")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        scheme, _, rest = self.host.partition("://")
        if scheme == "unix":
            return await asyncio.open_unix_connection(rest, limit=1 << 26)
        name, _, port = rest.partition("/")[0].rpartition(":")
        return await asyncio.open_connection(name, int(port), limit=1 << 26)


@dataclass(frozen=True)
class Call:
    """One request and the status of its response."""

    method: str
    path: str
    status: int

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status}"


def body_of(value: object) -> bytes:
    """Encode JSON as the client does: compact, UTF-8, with the characters escaped that are unsafe in HTML."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).translate(_HTML).encode()


def word(text: str) -> str:
    """Quote an id for a path; `$` is not quoted."""
    return quote(text, safe="$&+=:@-._~")


class Crush:
    """One client process. Use as `async with`; it closes its connections at the end."""

    def __init__(
        self,
        address: ServerAddress,
        client_log: ClientLog,
        *,
        version: str = "v0.99.0",
        build_id: str = "abc123",
        has_proxy: bool = False,
    ) -> None:
        """`has_proxy`: HTTP_PROXY is set, which makes the client send absolute targets on a Unix socket."""
        self.address = address
        self.client_log = client_log
        self.version = version
        self.build_id = build_id
        self.client_id = str(uuid.uuid4())
        self.calls: list[Call] = []
        self.connections = 0
        self._has_proxy = has_proxy
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> "Crush":
        return self

    async def __aexit__(self, *_: object) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        for _reader, writer in self._idle:
            writer.close()

    # --- start ----------------------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Check whether the client would use this server: RUNNING or OWN. Over TCP it sends no request."""
        if self.address.is_tcp:
            return RUNNING
        path = Path(self.address.host.removeprefix("unix://"))
        try:
            async with asyncio.timeout(PROBE_S):
                _, writer = await self.address.connect()
        except (OSError, TimeoutError):
            return OWN
        writer.close()
        version = (await self.call("GET", "/v1/version")).json()
        is_same = (version["version"], version["build_id"]) == (self.version, self.build_id)
        if not is_same and await self._requests_shutdown():
            await self._wait_socket_removed(path)
            return OWN
        await self._wait_healthy()
        return RUNNING

    async def _requests_shutdown(self) -> bool:
        status = (await self._control("shutdown_if_idle")).status
        if status == 400:  # an old server
            if (await self.call("GET", "/v1/workspaces")).json():
                return False
            status = (await self._control("shutdown")).status
        return status == 200

    async def _control(self, command: str) -> Response:
        return await self.call("POST", "/v1/control", {"command": command}, kind="text/plain")

    async def _wait_healthy(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError, ConnectionLost):
                async with asyncio.timeout(HEALTH_S):
                    if (await self.call("GET", "/v1/health")).status // 100 == 2:
                        return
            await asyncio.sleep(HEALTH_S)
        raise AssertionError(f"the server is not healthy within {READY_S} s")

    async def _wait_socket_removed(self, path: Path) -> None:
        deadline = time.monotonic() + GONE_S
        while path.exists():
            assert time.monotonic() < deadline, "the server agreed to shut down but kept its socket"
            await asyncio.sleep(0.01)

    # --- requests -------------------------------------------------------------------------------------------------

    async def call(self, method: str, path: str, body: object = None, *, kind: str = "application/json") -> Response:
        """Send a request on a persistent connection. `path` must be quoted. Raises ConnectionLost."""
        data = b"" if body is None else body_of(body)
        try:
            async with asyncio.timeout(REQUEST_S):
                answer = await self._exchange(method, path, data, kind if data else "")
        except TimeoutError:
            raise AssertionError(f"{method} {path} hangs: no answer within {REQUEST_S} s") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ConnectionLost(f"{method} {path}: {error!r}") from error
        self.calls.append(Call(method, path, answer.status))
        return answer

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        """Send a request that must succeed; return the decoded body, None if it is empty.

        Raises ConnectionLost, also on 503, which only a starting or stopping server returns.
        """
        answer = await self.call(method, path, body)
        if answer.status == 503:
            raise ConnectionLost(f"{method} {path}: {answer.body[:500]!r}")
        assert answer.status in (200, 202), f"{method} {path}: {answer.status} {answer.body[:500]!r}"
        return answer.json() if answer.body else None

    def calls_to(self, method: str, path_end: str) -> list[Call]:
        """Return the calls so far whose path, without its query, ends with `path_end`."""
        return [call for call in self.calls if call.method == method and call.path.partition("?")[0].endswith(path_end)]

    async def _exchange(self, method: str, path: str, data: bytes, kind: str) -> Response:
        head = self._head(method, path, data, kind)
        for reader, writer in [pair for pair in self._idle if pair[0].at_eof() or pair[1].is_closing()]:
            self._idle.remove((reader, writer))  # closed by the server, which the client notices
            writer.close()
        while True:
            is_reused = bool(self._idle)
            reader, writer = self._idle.pop() if is_reused else await self._connect()
            is_persistent = False
            try:
                writer.write(head + data)
                await writer.drain()
                status, headers = await read_head(reader)
                body = await read_body(reader, headers)
                is_persistent = headers.get("connection", "").lower() != "close"
                break
            except (OSError, asyncio.IncompleteReadError):
                if not (is_reused and method == "GET"):  # only a GET on a reused connection is safe to repeat
                    raise
            finally:
                if is_persistent:
                    self._idle.append((reader, writer))
                else:
                    writer.close()
        responses.check(method, path, status, headers, body)
        return Response(status, headers, body)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.connections += 1
        return await self.address.connect()

    def _head(self, method: str, path: str, data: bytes, kind: str, *more: str) -> bytes:
        host = self.address.host.removeprefix("tcp://").partition("/")[0] if self.address.is_tcp else LOCAL_HOST
        target = f"http://{host}{path}" if self._has_proxy and not self.address.is_tcp else path
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "User-Agent: Go-http-client/1.1"]
        if method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(data)}")
        lines += list(more)
        if kind:
            lines.append(f"Content-Type: {kind}")
        if self.address.token:
            lines.append(f"Authorization: Bearer {self.address.token}")
        if self.address.is_tcp:
            lines.append("Accept-Encoding: gzip")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    # --- workspaces and streams -----------------------------------------------------------------------------------

    async def create(self, options: dict[str, Any]) -> dict[str, Any]:
        """Create a workspace with `options` and the fields that every client sends; return it."""
        body = {"id": "", "version": self.version, "client_id": self.client_id} | options
        workspace: dict[str, Any] = await self.ok("POST", "/v1/workspaces", body)
        self.client_log.workspaces[workspace["id"]] = Path(workspace["data_dir"])
        return workspace

    async def subscribe(self, workspace: str, on_event: Callable[[Seen], object] | None = None) -> "Subscription":
        """Open the event stream of a workspace. Raises SubscriptionRejected, ConnectionLost."""
        path = f"/v1/workspaces/{word(workspace)}/events?client_id={self.client_id}"
        more = ("Accept: text/event-stream", "Cache-Control: no-cache", "Connection: keep-alive")
        try:
            async with asyncio.timeout(REQUEST_S):
                reader, writer = await self._connect()
                try:
                    writer.write(self._head("GET", path, b"", "", *more))
                    status, headers = await read_head(reader)
                    self.calls.append(Call("GET", path, status))
                    if status != 200:
                        responses.check("GET", path, status, headers, await read_body(reader, headers))
                        raise SubscriptionRejected(status)
                    responses.check_stream(headers)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ConnectionLost(f"GET {path}: {error!r}") from error
        is_chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        subscription = Subscription(workspace, reader, writer, is_chunked=is_chunked, on_event=on_event)
        self._subscriptions.append(subscription)
        self.client_log.streams.append(subscription.stream)
        return subscription

    async def retire(self, workspace: str) -> None:
        """Detach this client, as at the end of each command; on an old server, from the one workspace."""
        if (await self.call("DELETE", f"/v1/clients/{self.client_id}")).status != 200:
            await self.call("DELETE", f"/v1/workspaces/{word(workspace)}?client_id={self.client_id}")


class SubscriptionRejected(Exception):
    """Raised for a subscription that was answered with another status than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"events: {status}")
        self.status = status


class Subscription:
    """One open event stream, read line by line as the client does."""

    def __init__(
        self,
        workspace: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_chunked: bool,
        on_event: Callable[[Seen], object] | None,
    ) -> None:
        self.stream = Stream("crush", workspace)
        self.has_ended = asyncio.Event()  # clean end; a cut is a failure, because the client never notices it
        self._reader = reader
        self._writer = writer
        self._is_chunked = is_chunked
        self._on_event = on_event
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._reading = asyncio.get_running_loop().create_task(self._read(), name="crush events")

    @property
    def seen(self) -> list[Seen]:
        return self.stream.seen

    async def wait(self, matches: Callable[[Seen], bool], *, what: str, timeout_s: float = 15.0) -> Seen:
        """Wait for the first matching event and return it. Raises AssertionError if the stream ends or on timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._changed.clear()
                    for event in self.seen:
                        if matches(event):
                            return event
                    if self._failure is not None:
                        raise self._failure
                    if self.has_ended.is_set():
                        raise AssertionError(f"the stream ended before {what}")
                    await self._changed.wait()
        except TimeoutError:
            events = "\n".join(f"{event.kind} {event.change} {str(event.payload)[:200]}" for event in self.seen[-40:])
            raise AssertionError(f"no {what} within {timeout_s} s:\n{events}") from None

    def check(self) -> None:
        """Raise the failure of this stream, if there is one."""
        if self._failure is not None:
            raise self._failure

    async def end_of(self, run_id: str) -> dict[str, Any]:
        """Wait for the `run_complete` of a run and return its payload."""

        def matches(event: Seen) -> bool:
            return event.kind == "run_complete" and event.payload.get("run_id", "") == run_id

        return (await self.wait(matches, what=f"end of run {run_id}")).payload

    async def close(self) -> None:
        """Close the stream; raise its failure, if there is one."""
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        self._writer.close()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def _read(self) -> None:
        rest = b""
        try:
            while data := await (read_chunk(self._reader) if self._is_chunked else self._reader.read(65536)):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._line(line.strip())
                self._changed.set()
            assert not rest, f"the stream ended inside a line: {rest[:200]!r}"
            self.has_ended.set()
        except (OSError, asyncio.IncompleteReadError) as error:
            self._failure = AssertionError(f"the stream was cut, which the client never notices: {error!r}")
        except (AssertionError, ValueError, KeyError) as error:
            self._failure = error
        finally:
            self._changed.set()

    def _line(self, line: bytes) -> None:
        if not line:
            return
        name, _, value = line.partition(b": ")
        if name != b"data":
            raise api_shapes.ShapeError(f"the client logs a warning for this line: {line[:120]!r}")
        decoded = api_shapes.event(value)
        if decoded["type"] in api_shapes.OWN_KINDS:
            raise api_shapes.ShapeError(f"{decoded['type']} on a stream without ids")
        inner = decoded["payload"]
        seen = Seen(decoded["type"], inner["type"], inner["payload"], data=value)
        self.seen.append(seen)
        if self._on_event is not None:
            self._on_event(seen)
