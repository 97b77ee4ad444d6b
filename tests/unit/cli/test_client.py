"""The HTTP client against small servers on real sockets: responses, errors, and streams that reconnect."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from protocol.address import TcpAddress, UnixAddress
from protocol.errors import BadInput, Conflict, Denied, NotFound, Unavailable
from supervisor.__main__ import read_config
from supervisor.client.address import default_address, default_runtime_dir, parse_server_address
from supervisor.client.api import Api, error_of
from supervisor.client.events import RESUMED
from supervisor.client.transport import ConnectionLost, HttpResponse, Transport, Unreachable


class ScriptedServer:
    """Sends one prepared response per connection and records the requests."""

    def __init__(self, path: Path, responses: list[bytes]) -> None:
        self.address = UnixAddress(path)
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self._responses = responses

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("Content-Length")), 0)
        self.heads.append(head)
        self.bodies.append(await reader.readexactly(length))
        writer.write(self._responses.pop(0) if self._responses else b"")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(tmp_path: Path, *responses: bytes) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(tmp_path / "s.sock", list(responses))
    async with await asyncio.start_unix_server(server.serve, server.address.path):
        yield server


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def request(address: UnixAddress) -> HttpResponse:
    return await Transport(address).request("GET", "/x", timeout_s=5.0)


async def test_a_body_may_end_by_length_by_chunks_or_by_the_end_of_the_connection(tmp_path: Path) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
    closed = b"HTTP/1.1 200 OK\r\n\r\nabcde"
    async with serving(tmp_path, ok(b"abcde"), chunked, closed) as server:
        for _ in range(3):
            response = await request(server.address)
            assert (response.head.status, response.body) == (200, b"abcde")


@pytest.mark.parametrize(
    "truncated",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"220 mail.example ESMTP\r\n\r\n",
    ],
)
async def test_a_truncated_response_is_an_error(tmp_path: Path, truncated: bytes) -> None:
    async with serving(tmp_path, truncated) as server:
        with pytest.raises(ConnectionLost):
            await request(server.address)


async def test_an_unreachable_server_is_an_error_that_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="start one with `bulkhead serve`"):
        await request(UnixAddress(tmp_path / "none.sock"))
    assert not await Api(UnixAddress(tmp_path / "none.sock")).is_healthy()


async def test_a_request_carries_path_body_and_token(tmp_path: Path) -> None:
    async with serving(tmp_path, ok(b"[]"), ok(b"{}")) as server:
        api = Api(server.address, token="secret-token")
        assert await api.workers(with_memory=True) == []
        await api.skip_permissions("a/b $$", True)
    assert server.heads[0].startswith("GET /v1/workers?memory=full HTTP/1.1\r\n")
    assert "Authorization: Bearer secret-token\r\n" in server.heads[0]
    assert server.heads[1].startswith("POST /v1/workspaces/a%2Fb%20$$/permissions/skip HTTP/1.1\r\n")
    assert server.bodies[1] == b'{"skip":true}'


async def test_a_prompt_without_a_response_is_sent_again_with_the_same_run_id(tmp_path: Path) -> None:
    lost = (
        b"HTTP/1.1 503 Unavailable\r\nContent-Length: 45\r\n\r\n"
        + b'{"message":"it died!!","code":"worker_lost"}'.ljust(45)
    )
    accepted = b'HTTP/1.1 202 Accepted\r\nContent-Length: 14\r\n\r\n{"run_id":"r"}'
    async with serving(tmp_path, b"", lost, accepted) as server:
        assert await Api(server.address).submit("w", "s", "hello", run_id="r") == "r"
    assert len(server.bodies) == 3
    assert len(set(server.bodies)) == 1


async def test_a_refused_prompt_is_not_sent_again(tmp_path: Path) -> None:
    body = b'{"message":"closing","code":"workspace_closing"}'
    async with serving(
        tmp_path, b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    ) as server:
        with pytest.raises(Conflict, match="closing"):
            await Api(server.address).submit("w", "s", "hello", run_id="r")
    assert len(server.bodies) == 1


def test_error_responses_become_the_matching_error_classes() -> None:
    error = error_of(503, {"retry-after": "2"}, b'{"message":"later","code":"worker_starting"}')
    assert isinstance(error, Unavailable)
    assert (error.code, error.retry_after_s, error.retryable) == ("worker_starting", 2.0, True)
    assert isinstance(error_of(404, {}, b"not json"), NotFound)
    assert isinstance(error_of(401, {}, b"{}"), Denied)
    assert error_of(418, {}, b"").status == 418
    assert error_of(409, {}, b'{"message":"x","code":"of a later version"}').status == 409


def event(kind: str, number: int) -> bytes:
    return b'id: log.%d\ndata: {"type":"%b","payload":{"type":"updated","payload":{"n":%d}}}\n\n' % (
        number,
        kind.encode(),
        number,
    )


def stream(*blocks: bytes, is_whole: bool = False) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks)
    return head + chunks + (b"0\r\n\r\n" if is_whole else b"")


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_stream_reconnects_after_the_last_event(tmp_path: Path, is_whole: bool) -> None:
    first = stream(b"retry: 1\n\nid: log.3\n\n", event("session", 4), event("message", 5), is_whole=is_whole)
    again = stream(b"data: broken\n\n", event("reset", 9), event("run_complete", 10))
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    async with serving(tmp_path, first, busy, again) as server:
        api = Api(server.address, source=random.Random(1))
        async with api.events("w") as events:
            kinds = [(await events.next()).kind for _ in range(5)]
            assert events.cursor == "log.10"
    assert kinds == ["session", "message", RESUMED, "reset", "run_complete"]
    assert "Last-Event-ID" not in server.heads[0]
    assert "ids=1" in server.heads[0]
    assert "Last-Event-ID: log.5\r\n" in server.heads[1]
    assert "Last-Event-ID: log.5\r\n" in server.heads[2]


async def test_a_refused_stream_raises_the_error(tmp_path: Path) -> None:
    body = b'{"message":"there is no such workspace","code":"workspace_unknown"}'
    refusal = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with serving(tmp_path, refusal, stream(b"retry: 1\n\n", is_whole=True), refusal) as server:
        api = Api(server.address)
        with pytest.raises(NotFound):
            await api.events("w").__aenter__()
        async with api.events("w") as events:
            with pytest.raises(NotFound):
                await events.next()


async def test_a_stream_gives_up_after_its_patience(tmp_path: Path) -> None:
    async with serving(tmp_path, stream(b"retry: 1\n\n", is_whole=True)) as server:
        api = Api(server.address)
        async with api.events("w", patience_s=0.0) as events:
            with pytest.raises((Unavailable, ConnectionLost)):
                await events.next()


async def test_a_cancelled_wait_for_an_event_loses_no_data(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        data = event("session", 1)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + data[:20])
        await release.wait()
        writer.write(data[20:])
        writer.close()

    path = tmp_path / "s.sock"
    async with await asyncio.start_unix_server(serve, path), Api(UnixAddress(path)).events("w") as events:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await events.next()
        release.set()
        assert (await events.next()).kind == "session"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:///run/x.sock", UnixAddress(Path("/run/x.sock"))),
        ("tcp://127.0.0.1:80/ignored", TcpAddress("127.0.0.1", 80)),
        ("tcp://[::1]:8600", TcpAddress("::1", 8600)),
    ],
)
def test_valid_addresses_are_parsed(text: str, expected: object) -> None:
    assert parse_server_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "/run/x.sock", "unix://x.sock", "tcp://host", "tcp://h:0", "tcp://h:x", "http://h:1"]
)
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="unix:///PATH or tcp://HOST:PORT"):
        parse_server_address(text)


@pytest.mark.parametrize(
    "env",
    [
        {"HOME": "/h"},
        {"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/1"},
        {"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/1", "RUNTIME_DIRECTORY": "/run/a:/run/b"},
        {"HOME": "/h", "XDG_RUNTIME_DIR": "/" + "x" * 97, "RUNTIME_DIRECTORY": "/run/a"},
    ],
)
def test_client_and_server_have_the_same_default_addresses(env: dict[str, str]) -> None:
    config = read_config([], env)
    assert default_runtime_dir(env) == config.runtime_dir
    assert str(default_address(env)) == str(config.listeners[0])
