"""Test HTTP to providers with a server whose bytes the test writes: kept connections, cancels, odd responses."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.fakes.raw_provider import STREAM, RawProvider, RawRequest, chunk
from worker.models.transport import connections
from worker.models.transport.provider_http import ProviderHttp, proxy_of
from worker.models.transport.response import ProviderResponse, TransportError
from worker.models.wires.wire import WireRequest

T = TypeVar("T")
SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[tuple[RawProvider, ProviderHttp]]:
    async with RawProvider(**options) as provider:
        http = ProviderHttp(5.0)
        try:
            yield provider, http
        finally:
            await http.close()


def request(provider: RawProvider, body: bytes = b"{}", path: str = "/v1/x", **headers: str) -> WireRequest:
    return WireRequest(provider.url + path, headers, body)


async def both(task: Awaitable[T], provider: RawProvider, answer: bytes) -> tuple[T, RawRequest]:
    """Answer the next request with these bytes, and return the result of the client."""
    running = asyncio.ensure_future(task)
    received = await provider.next_request()
    await received.send(answer)
    return await running, received


async def whole(response: ProviderResponse) -> bytes:
    body = b""
    while part := await response.read():
        body += part
    response.release()
    return body


async def test_a_request_has_its_headers_and_nothing_that_was_not_asked_for() -> None:
    async with opened() as (provider, http):
        sent = request(provider, b'{"a":1}', Authorization="Bearer k")
        response, received = await both(http.open(sent), provider, SMALL)
        assert await whole(response) == b"ok"
        assert received.line == "POST /v1/x HTTP/1.1"
        assert received.body == b'{"a":1}'
        assert received.headers.pop("host") in provider.url
        assert received.headers.pop("user-agent").startswith("bulkhead/")
        assert received.headers == {
            "authorization": "Bearer k",
            "content-type": "application/json",
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            "content-length": "7",
        }


async def test_a_configured_header_replaces_that_of_the_transport() -> None:
    async with opened() as (provider, http):
        sent = WireRequest(provider.url, {"user-agent": "mine"}, b"{}")
        response, received = await both(http.open(sent), provider, SMALL)
        assert received.headers["user-agent"] == "mine"
        response.abort()


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with opened() as (provider, http):
        for _ in range(3):
            response, received = await both(http.open(request(provider)), provider, SMALL)
            await whole(response)
            assert received.connection == 0
        assert provider.accepted == 1


async def test_a_released_response_gives_its_connection_back_when_its_end_arrives() -> None:
    async with opened() as (provider, http):
        response, received = await both(http.open(request(provider)), provider, STREAM + chunk(b"data: x\n\n"))
        assert await response.read() == b"data: x\n\n"
        response.release()
        await received.send(chunk(b""))
        await turns(20)
        response, received = await both(http.open(request(provider)), provider, SMALL)
        assert received.connection == 0
        response.abort()
        await received.ended()


async def test_a_released_response_whose_end_does_not_arrive_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LINGER_S", 0.05)
    async with opened() as (provider, http):
        response, received = await both(http.open(request(provider)), provider, STREAM + chunk(b"data: x\n\n"))
        await response.read()
        response.release()
        await received.ended()


async def test_closing_ends_released_and_kept_connections() -> None:
    async with opened() as (provider, http):
        kept, first = await both(http.open(request(provider)), provider, SMALL)
        await whole(kept)
        lingering, second = await both(http.open(request(provider)), provider, STREAM)
        unread, third = await both(http.open(request(provider)), provider, STREAM)
        assert second.connection == first.connection
        lingering.release()
        await http.close()
        for received in (second, third):
            await received.ended()
        unread.abort()


async def test_idle_connections_are_closed_and_leave_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_S", 0.05)
    async with opened() as (provider, http):
        response, received = await both(http.open(request(provider)), provider, SMALL)
        await whole(response)
        await received.ended()
        scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert [timer for timer in scheduled if not timer.cancelled() and "aiohttp" in repr(timer)] == []


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_kept_connection_that_the_provider_closed_is_replaced(how: str) -> None:
    async with opened() as (provider, http):
        response, received = await both(http.open(request(provider)), provider, SMALL)
        await whole(response)
        running = asyncio.create_task(http.open(request(provider)))
        again = await provider.next_request()  # it was read before the provider gave up on the connection
        assert again.connection == received.connection
        again.close() if how == "close" else again.reset()
        third = await provider.next_request()
        assert third.connection == 1
        assert third.body == again.body
        await third.send(SMALL)
        assert await whole(await running) == b"ok"


async def test_a_new_connection_that_is_closed_is_a_failure_and_is_not_repeated() -> None:
    async with opened() as (provider, http):
        running = asyncio.create_task(http.open(request(provider)))
        (await provider.next_request()).close()
        with pytest.raises(TransportError, match="cannot reach the provider at 127"):
            await running
        assert provider.accepted == 1


async def test_a_response_that_has_begun_is_not_repeated() -> None:
    async with opened() as (provider, http):
        await whole((await both(http.open(request(provider)), provider, SMALL))[0])
        response, received = await both(http.open(request(provider)), provider, STREAM + chunk(b"x"))
        assert await response.read() == b"x"
        received.reset()
        with pytest.raises(TransportError, match="broke in the answer"):
            await response.read()
        response.abort()
        assert provider.accepted == 1


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", STREAM, STREAM + chunk(b"x")])
async def test_L07_a_cancel_closes_the_connection_at_once(answer: bytes) -> None:
    async with opened() as (provider, http):
        has_read = asyncio.Event()

        async def read() -> None:
            response = await http.open(request(provider))
            try:
                while True:
                    await response.read()
                    has_read.set()
            finally:
                response.abort()

        task = asyncio.create_task(read())
        received = await provider.next_request()
        await received.send(answer)
        if answer.endswith(chunk(b"x")):
            await has_read.wait()
        await turns(10)
        task.cancel()
        await turns(10)
        assert received.is_ended
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_L07_a_cancel_does_not_wait_until_a_large_request_is_sent() -> None:
    size = 64 << 20
    began, may_read = asyncio.Event(), asyncio.Event()
    received: asyncio.Queue[int] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        total = len(await reader.read(1000))
        began.set()
        await may_read.wait()
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(1 << 20):
                total += len(part)
        received.put_nowait(total)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    http = ProviderHttp(5.0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        task = asyncio.create_task(http.open(WireRequest(url, {}, b"x" * size)))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_read.set()
        assert await received.get() < size
    await http.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server and of its client."""
    path = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", path / "key.pem", "-out", path / "cert.pem", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path / "cert.pem", path / "key.pem")
    return server, ssl.create_default_context(cafile=str(path / "cert.pem"))


async def test_tls_is_verified_and_a_cancel_closes_it_at_once(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tls=tls[0]) as (provider, http):
        with pytest.raises(TransportError, match=r"cannot reach.*certificate"):
            await http.open(request(provider))
    monkeypatch.setattr(connections, "shared_tls", lambda: tls[1])
    async with opened(tls=tls[0]) as (provider, http):
        response, received = await both(http.open(request(provider)), provider, SMALL)
        assert await whole(response) == b"ok"
        task = asyncio.create_task(http.open(request(provider)))
        received = await provider.next_request()
        assert received.connection == 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turns(20)
        assert received.is_ended


async def test_L07_a_cancel_during_the_handshake_closes_the_connection(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    connected, ended = asyncio.Event(), asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        while await reader.read(1000):
            pass
        ended.set()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    http = ProviderHttp(5.0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        task = asyncio.create_task(http.open(WireRequest(url, {}, b"{}")))
        await connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await ended.wait()
    await http.close()


async def test_connecting_has_a_deadline() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    http = ProviderHttp(0.1)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"  # the handshake is part of connecting
    async with server:
        with pytest.raises(TransportError, match="cannot reach the provider") as caught:
            await http.open(WireRequest(url, {}, b"{}"))
        assert caught.value.category == "network"
        await http.close()


@pytest.mark.parametrize(
    ("url", "category"),
    [("ftp://x/y", "bad_request"), ("http://", "bad_request"), ("x", "bad_request"), ("http://[::x]/", "bad_request")],
)
async def test_an_address_that_is_none_is_a_wrong_configuration(url: str, category: str) -> None:
    http = ProviderHttp(5.0)
    with pytest.raises(TransportError, match="base_url") as caught:
        await http.open(WireRequest(url, {}, b"{}"))
    assert caught.value.category == category
    await http.close()


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    async with opened() as (provider, http):
        with pytest.raises(TransportError, match="line break"):
            await http.open(request(provider, Authorization="Bearer a\r\nX-Other: b"))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_within_the_origin_is_followed_with_the_same_request(status: int) -> None:
    async with opened() as (provider, http):
        running = asyncio.create_task(http.open(request(provider, b'{"a":1}', Authorization="Bearer k")))
        first = await provider.next_request()
        await first.send(b"HTTP/1.1 %d X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n" % status)
        second = await provider.next_request()
        assert (second.line, second.body) == ("POST /other HTTP/1.1", b'{"a":1}')
        assert second.headers["authorization"] == "Bearer k"
        await second.send(SMALL)
        assert await whole(await running) == b"ok"


@pytest.mark.parametrize(
    "target", ["http://elsewhere/x", "https://127.0.0.1/x", "//127.0.0.1:1/x", "http://127.0.0.1:x/"]
)
async def test_a_redirect_to_another_origin_is_not_followed(target: str) -> None:
    async with opened() as (provider, http):
        running = asyncio.create_task(http.open(request(provider, Authorization="Bearer k")))
        first = await provider.next_request()
        await first.send(b"HTTP/1.1 307 X\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % target.encode())
        with pytest.raises(TransportError, match="another host") as caught:
            await running
        assert caught.value.category == "not_found"


async def test_redirects_without_end_are_refused() -> None:
    async with opened() as (provider, http):
        running = asyncio.create_task(http.open(request(provider)))
        for _ in range(4):
            received = await provider.next_request()
            await received.send(b"HTTP/1.1 307 X\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(TransportError, match="more than 3 times"):
            await running


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    ],
)
async def test_L05_a_response_that_is_no_http_or_has_endless_headers_is_refused(answer: bytes) -> None:
    async with opened() as (provider, http):
        running = asyncio.create_task(http.open(request(provider)))
        received = await provider.next_request()
        await received.send(answer)
        with pytest.raises(TransportError, match="cannot read the provider's response") as caught:
            await running
        assert caught.value.category == "garbage"
        await received.ended()


async def test_a_compressed_response_is_refused() -> None:
    async with opened() as (provider, http):
        running = asyncio.create_task(http.open(request(provider)))
        received = await provider.next_request()
        await received.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n")
        with pytest.raises(TransportError, match="gzip"):
            await running
        await received.ended()


@pytest.mark.parametrize("body", [b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"])
async def test_L04_a_body_that_ends_too_early_is_reported(body: bytes) -> None:
    async with opened() as (provider, http):
        response, received = await both(http.open(request(provider)), provider, b"HTTP/1.1 200 OK\r\n" + body)
        received.close()
        with pytest.raises(TransportError) as caught:
            await whole(response)
        assert caught.value.category == "network"
        response.abort()


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async with opened() as (provider, http):
        response, received = await both(http.open(request(provider)), provider, b"HTTP/1.0 200 OK\r\n\r\nrest")
        received.close()
        assert await whole(response) == b"rest"


async def test_a_unix_socket_is_used_instead_of_the_host(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    async with opened(path=path) as (provider, http):
        response, received = await both(http.open(request(provider), str(path)), provider, SMALL)
        assert await whole(response) == b"ok"
        assert received.headers["host"] == "local-model"
    http = ProviderHttp(5.0)
    with pytest.raises(TransportError, match=r"cannot reach the model of this machine at .*make local-model"):
        await http.open(WireRequest("http://local-model/v1", {}, b"{}"), str(tmp_path / "none.sock"))
    await http.close()


@pytest.mark.parametrize(
    ("env", "url", "proxy"),
    [
        ({}, "https://api.x.com/v1", ""),
        ({"HTTPS_PROXY": "http://p:1"}, "https://api.x.com/v1", "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "https://api.x.com/v1", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://api.x.com/v1", ""),
        ({"ALL_PROXY": "http://p:1"}, "https://api.x.com/v1", "http://p:1"),
        ({"https_proxy": "http://p:1", "no_proxy": "x.com"}, "https://api.x.com/v1", ""),
        ({"https_proxy": "http://p:1", "no_proxy": "y.com"}, "https://api.x.com/v1", "http://p:1"),
        ({"http_proxy": "http://p:1", "NO_PROXY": "localhost,127.0.0.1"}, "http://127.0.0.1:8080/v1", ""),
        ({"https_proxy": "http://p:1", "no_proxy": "*"}, "https://api.x.com/v1", ""),
    ],
)
def test_the_proxy_of_an_address(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], url: str, proxy: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == proxy


async def test_a_proxy_that_cannot_be_used_or_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    http = ProviderHttp(5.0)
    monkeypatch.setenv("https_proxy", "socks5://me:pw@x:1")
    with pytest.raises(TransportError, match="use an http or https proxy") as caught:
        await http.open(WireRequest("https://provider.invalid/", {}, b"{}"))
    assert "pw" not in caught.value.message
    await http.close()
    async with opened() as (provider, http):
        monkeypatch.setenv("https_proxy", provider.url)
        running = asyncio.create_task(http.open(WireRequest("https://provider.invalid/", {}, b"{}")))
        received = await provider.next_request()
        await received.send(b"HTTP/1.1 407 Log in first\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(TransportError, match=r"the proxy refused .*provider\.invalid: 407 Log in first") as caught:
            await running
        assert caught.value.category == "network"


async def test_a_request_goes_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (provider, http):
        monkeypatch.setenv("http_proxy", provider.url.replace("http://", "http://me:pw@"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        sent = WireRequest("http://provider.invalid/v1/x", {"Authorization": "Bearer k"}, b"{}")
        response, received = await both(http.open(sent), provider, SMALL)
        assert await whole(response) == b"ok"
        assert received.line == "POST http://provider.invalid/v1/x HTTP/1.1"
        assert received.headers["proxy-authorization"] == "Basic bWU6cHc="
        assert received.headers["authorization"] == "Bearer k"


async def test_tls_goes_through_a_tunnel_of_the_proxy(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[str] = []
    pipes: list[asyncio.Task[None]] = []

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
        sink.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        host, _, port = heads[-1].split(" ")[1].rpartition(":")
        upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        pipes.append(asyncio.ensure_future(pipe(reader, upstream_writer)))
        pipes.append(asyncio.ensure_future(pipe(upstream_reader, writer)))

    monkeypatch.setattr(connections, "shared_tls", lambda: tls[1])
    proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", f"http://me:pw@127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
    async with proxy, opened(tls=tls[0]) as (provider, http):
        for _ in range(2):
            sent = request(provider, Authorization="Bearer k")
            response, received = await both(http.open(sent), provider, SMALL)
            assert await whole(response) == b"ok"
            assert received.headers["authorization"] == "Bearer k"
        task = asyncio.create_task(http.open(request(provider)))
        received = await provider.next_request()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await received.ended()
        await asyncio.wait(pipes)
    assert len(heads) == 1
    assert heads[0].startswith("CONNECT 127.0.0.1:")
    assert "Proxy-Authorization: Basic bWU6cHc=" in heads[0]
    assert "Bearer" not in heads[0]
