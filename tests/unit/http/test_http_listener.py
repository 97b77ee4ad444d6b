"""Requests and responses over real sockets: limits before bodies, errors as JSON, one response each."""

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tornado.httputil import HTTPHeaders

from protocol.address import UnixAddress
from protocol.base.tasks import TaskOwner
from protocol.errors import BadInput, LimitReached, Unavailable
from protocol.limits import Limits
from supervisor.http.access import UnixAccess
from supervisor.http.http_listener import HttpListener, body_length
from supervisor.http.listeners import open_listener
from supervisor.http.messages import Request, Response, json_response
from supervisor.http.routes import RouteTable
from tests.support.clients.http_client import read_head

LIMITS = Limits(body_max_bytes=100_000, header_max_bytes=4096)
LOG = logging.getLogger("bulkhead.test")
Handler = Callable[[Request], Awaitable[Response | None]]


async def echo(request: Request) -> Response:
    """Return what the request contained, as JSON."""
    return json_response(
        {"route": request.route.path, "params": request.params, "query": request.query, "body": len(request.body)}
    )


class ListenerHarness:
    """Runs a listener and sends requests to it."""

    def __init__(self, path: Path, answer: Handler = echo) -> None:
        self.path = path / "s"
        self.tasks = TaskOwner("test", LOG)
        self.listener = HttpListener(
            listening=open_listener(UnixAddress(self.path)).socket,
            access=UnixAccess(),
            answer=answer,
            table=RouteTable(),
            limits=LIMITS,
            random=random.Random(1),
            log=LOG,
            tasks=self.tasks,
        )

    async def __aenter__(self) -> "ListenerHarness":
        self.listener.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.listener.close()
        await self.tasks.close()
        await self.listener.close_connections()

    async def send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send one request, the bytes as given, and return status, headers and body of the response."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            writer.write(data)
            status, headers = await read_head(reader)
            return status, headers, await reader.readexactly(int(headers["content-length"]))
        finally:
            writer.close()


def head(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


async def test_a_request_arrives_complete(tmp_path: Path) -> None:
    async with ListenerHarness(tmp_path) as server:
        target = "/v1/workspaces/w/agent/sessions/s/cancel?run_id=a%20b&run_id=c&x="
        status, headers, body = await server.send(head("POST", target, "Content-Length: 3") + b"{} ")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {
        "route": "/v1/workspaces/{id}/agent/sessions/{sid}/cancel",
        "params": {"id": "w", "sid": "s"},
        "query": {"run_id": "a b", "x": ""},
        "body": 3,
    }


async def test_a_target_in_absolute_form_is_accepted(tmp_path: Path) -> None:
    async with ListenerHarness(tmp_path) as server:
        target = "http://api.crush.localhost/v1/workspaces/w/agent?provider_id=p"
        status, _, body = await server.send(head("GET", target))
    assert status == 200
    assert json.loads(body)["query"] == {"provider_id": "p"}


async def test_a_connection_is_reused(tmp_path: Path) -> None:
    async with ListenerHarness(tmp_path) as server:
        reader, writer = await asyncio.open_unix_connection(server.path)
        for _ in range(3):
            writer.write(head("GET", "/v1/health"))
            status, headers = await read_head(reader)
            assert status == 200
            await reader.readexactly(int(headers["content-length"]))
        writer.close()


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "route_unknown"),
        ("PUT", "/v1/health", 405, "method_not_allowed"),
        ("GET", "/v1/workspaces/%ff", 400, "bad_input"),
    ],
)
async def test_errors_are_json(tmp_path: Path, method: str, target: str, status: int, code: str) -> None:
    async with ListenerHarness(tmp_path) as server:
        actual, headers, body = await server.send(head(method, target))
    assert actual == status
    assert headers.get("allow") == ("GET" if status == 405 else None)
    assert json.loads(body)["code"] == code
    assert json.loads(body)["message"]


async def test_errors_of_a_handler_keep_their_code_and_retry_hint(tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        raise Unavailable("no worker", code="worker_lost")

    async with ListenerHarness(tmp_path, answer) as server:
        status, headers, body = await server.send(head("GET", "/v1/health"))
    assert (status, headers["retry-after"]) == (503, "1")
    assert json.loads(body) == {"message": "no worker", "code": "worker_lost"}


async def test_S16_a_bug_in_a_handler_is_a_500_with_an_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(request: Request) -> Response:
        raise ZeroDivisionError("secret detail")

    async with ListenerHarness(tmp_path, answer) as server:
        status, _, body = await server.send(head("GET", "/v1/health"))
        again, _, _ = await server.send(head("GET", "/v1/health"))
    assert (status, again) == (500, 500)
    assert b"secret" not in body
    error_id = json.loads(body)["message"].rsplit(" ", 1)[1]
    assert any(error_id in str(record.__dict__) for record in caplog.records)


async def test_C08_a_body_at_the_limit_is_accepted(tmp_path: Path) -> None:
    async with ListenerHarness(tmp_path) as server:
        data = head("POST", "/v1/workspaces", "Content-Length: 100000") + b"x" * 100_000
        status, _, body = await server.send(data)
    assert status == 200
    assert json.loads(body)["body"] == 100_000


async def test_C08_a_body_above_the_limit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with ListenerHarness(tmp_path) as server:
        status, headers, body = await server.send(head("POST", "/v1/workspaces", "Content-Length: 100001"))
    assert status == 413
    assert headers["connection"] == "close"
    assert json.loads(body)["code"] == "too_large"


async def test_C08_the_sender_of_a_refused_body_still_gets_the_response(tmp_path: Path) -> None:
    async with ListenerHarness(tmp_path) as server:
        data = head("POST", "/v1/workspaces", "Content-Length: 1000000") + b"x" * 1_000_000
        status, _, _ = await server.send(data)
    assert status == 413


async def test_C08_a_chunked_body_above_the_limit_is_refused(tmp_path: Path) -> None:
    async with ListenerHarness(tmp_path) as server:
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        data = head("POST", "/v1/workspaces", "Transfer-Encoding: chunked") + chunk * 3
        status, _, _ = await server.send(data)
    assert status == 413


async def test_C10_headers_above_the_limit_are_refused(tmp_path: Path) -> None:
    async with ListenerHarness(tmp_path) as server:
        status, _, body = await server.send(head("GET", "/v1/health", "X-Big: " + "a" * 5000))
    assert status == 431
    assert json.loads(body)["code"] == "headers_too_large"


@pytest.mark.parametrize(
    ("version", "headers", "length"),
    [
        ("HTTP/1.1", {}, 0),
        ("HTTP/1.0", {}, 0),
        ("HTTP/1.0", {"Content-Length": "007"}, 7),
        ("HTTP/1.1", {"Content-Length": "18446744073709551"}, 18446744073709551),
        ("HTTP/1.1", {"Transfer-Encoding": "Chunked"}, 0),
        ("HTTP/1.0", {"Transfer-Encoding": "chunked"}, None),
        ("HTTP/1.1", {"Transfer-Encoding": "chunked", "Content-Length": "1"}, None),
        ("HTTP/1.1", {"Transfer-Encoding": "chunked,chunked"}, None),
        ("HTTP/1.1", {"Transfer-Encoding": ""}, None),
        ("HTTP/1.1", {"Content-Length": ""}, None),
        ("HTTP/1.1", {"Content-Length": "1,1"}, None),
        ("HTTP/1.1", {"Content-Length": "\u0661"}, None),
        ("HTTP/1.1", {"Content-Length": "-1"}, None),
        ("HTTP/1.1", {"Content-Length": "9" * 5000}, None),
    ],
)
def test_C10_a_body_of_ambiguous_length_is_refused(version: str, headers: dict[str, str], length: int | None) -> None:
    if length is None:
        with pytest.raises(BadInput, match="where this body ends"):
            body_length(version, HTTPHeaders(headers))
    else:
        assert body_length(version, HTTPHeaders(headers)) == length


async def test_C10_the_response_to_a_refused_head_request_has_no_body(tmp_path: Path) -> None:
    async with ListenerHarness(tmp_path) as server:
        reader, writer = await asyncio.open_unix_connection(server.path)
        writer.write(head("HEAD", "/v1/health", "Content-Length: x"))
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"\r\n\r\n")


async def test_C02_a_caller_that_disconnects_does_not_end_its_request(tmp_path: Path) -> None:
    entered, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(request: Request) -> Response:
        entered.set()
        await go.wait()
        done.set()
        return Response()

    async with ListenerHarness(tmp_path, answer) as server:
        _, writer = await asyncio.open_unix_connection(server.path)
        writer.write(head("GET", "/v1/health"))
        await entered.wait()
        writer.close()
        await writer.wait_closed()
        go.set()
        await done.wait()
        assert await server.tasks.join(5)


async def test_too_many_clients_is_503_with_a_retry_hint(tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        raise LimitReached("full", code="too_many_clients", retry_after_s=5.0)

    async with ListenerHarness(tmp_path, answer) as server:
        status, headers, _ = await server.send(head("GET", "/v1/health"))
    assert (status, headers["retry-after"]) == (503, "5")
