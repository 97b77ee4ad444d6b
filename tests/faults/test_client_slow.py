"""Fault matrix 9: clients that stop reading or vanish (C01), and requests that come slowly or crooked (C10)."""

import asyncio
import json

import pytest

from protocol.limits import DEFAULT_LIMITS
from tests.support.clients.light_reader import LightReader, all_saw_end, assert_exact, closed_at_end
from tests.support.clients.raw_connection import RawConnection, wire
from tests.support.eventually import eventually
from tests.support.fakes.proxy import Proxy
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.process_usage import descriptors, peak_bytes

LARGE = 300_000
KEPT_BYTES_MAX = 40_000_000
"""What all clients of a workspace may cost together, slow ones included (`stream_queue_max_bytes`), and what passes."""

SLOW = {"header_deadline_s": 0.4, "body_deadline_s": 0.4}
TRICKLE_S = 0.05


# --- C01: the stream of a client that takes nothing -------------------------------------------------------------------


@pytest.mark.house(limits={"stream_write_deadline_s": 0.5})
async def test_C01_a_client_with_a_tiny_buffer_stops_reading(house: ServerHarness) -> None:
    workspace = await house.workspace()
    slow = LightReader(house.server.socket_path, workspace.id)
    with closed_at_end([slow]):
        assert await slow.open(receive_buffer=1) == 200
        await eventually(lambda: slow.base, what="where it stands")
        slow.pause()
        before = peak_bytes(house.server.pid)
        await say_much(workspace, 8)
        await eventually(lambda: "slow client cut" in house.server.log, what="the slow client cut")
        assert peak_bytes(house.server.pid) - before < KEPT_BYTES_MAX
        slow.resume()
        await eventually(lambda: not slow.is_open, what="the end of its connection")
        await resumes(house, workspace, slow)


@pytest.mark.house(limits={"stream_write_deadline_s": 0.5})
async def test_C01_a_peer_vanishes_behind_a_frozen_proxy(house: ServerHarness) -> None:
    workspace = await house.workspace()
    before = len(descriptors(house.server.pid))
    async with Proxy(house.root / "proxy", house.server.socket_path) as proxy:
        gone = LightReader(proxy.path, workspace.id)
        with closed_at_end([gone]):
            assert await gone.open() == 200
            await eventually(lambda: gone.base, what="where it stands")
            first = await workspace.prompt("/say before")
            await all_saw_end([gone], first)
            proxy.freeze()
            await say_much(workspace, 8)
            await eventually(lambda: "slow client cut" in house.server.log, what="the vanished client cut")
            await eventually(lambda: len(descriptors(house.server.pid)) <= before, what="its descriptor closed")
            assert gone.is_open, "it does not know yet"
            gone.close()
            await resumes(house, workspace, LightReader(house.server.socket_path, workspace.id, gone.last_id), gone)


async def say_much(workspace: WorkspaceFixture, runs: int) -> None:
    """More than every buffer between the server and a client holds; the room's own client takes all of it."""
    for number in range(runs):
        run = await workspace.prompt(f"/say {number} {'x' * LARGE}")
        await workspace.ended(run)


async def resumes(
    house: ServerHarness, workspace: WorkspaceFixture, reader: LightReader, before: LightReader | None = None
) -> None:
    """It comes back with its last id and gets the rest: nothing is missing, nothing comes twice."""
    with closed_at_end([reader]):
        assert await reader.open() == 200
        last = await workspace.prompt("/say the last")
        await all_saw_end([reader], last)
    begin = before or reader
    if before is not None:
        reader.events[:0] = before.events
    assert_exact(reader, house.stored(workspace), after=begin.base)


# --- C10: slow --------------------------------------------------------------------------------------------------------


BEGINNINGS = (
    b"G",
    b"GET /v1/health HTTP/1.1\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-A: b\r\n",
    b"\x16\x03\x01\x00\x04",
)


@pytest.mark.parametrize("begin", BEGINNINGS)
@pytest.mark.house(limits=SLOW, neighbour=False)
async def test_C10_headers_that_do_not_end(house: ServerHarness, begin: bytes) -> None:
    async with wire(house.server.socket_path) as silent, wire(house.server.socket_path) as drop:
        silent.send(begin)
        drop.send(begin)
        dropping = asyncio.ensure_future(drop.trickle(b"X" * 4000, TRICKLE_S))
        for said in (await silent.rest(), await dropping):
            assert said.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), said
            assert b'"code":"request_timeout"' in said
    (await house.new_client().get("/v1/health")).expect(200)


@pytest.mark.house(limits=SLOW, neighbour=False)
async def test_C10_an_idle_connection_is_none_that_is_slow(house: ServerHarness) -> None:
    assert DEFAULT_LIMITS.idle_connection_s > 90, "clients keep idle connections for 90 s and lose requests to the race"
    async with (
        wire(house.server.socket_path) as fresh,
        wire(house.server.socket_path) as used,
        wire(house.server.socket_path) as slow,
    ):
        used.send(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await used.answer())[0] == 200
        slow.send(b"GET")
        assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")  # so the deadline has passed for the others, too
        for idle in (fresh, used):
            for _ in range(2):
                idle.send(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await idle.answer())[0] == 200
            idle.send(b"GET /v1/hea")  # the deadline counts for every request of a connection
            assert (await idle.rest()).startswith(b"HTTP/1.1 408 ")
    async with wire(house.server.socket_path) as eager:
        eager.send(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/hea")
        assert (await eager.answer())[0] == 200
        assert (await eager.rest()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("framing", [b"Content-Length: 4000", b"Transfer-Encoding: chunked"])
@pytest.mark.house(limits=SLOW)
async def test_C10_a_body_that_does_not_end(house: ServerHarness, framing: bytes) -> None:
    workspace = await house.workspace()
    async with wire(house.server.socket_path) as slow:
        slow.send(b"POST /v1/workspaces/%b/agent HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (workspace.id.encode(), framing))
        slow.send(b"a00\r\n" if b"chunked" in framing else b"")
        assert await slow.trickle(b'{"session_id":"' + b"x" * 2000, TRICKLE_S) == b""
    assert house.stored(workspace).runs == []
    await workspace.works()


# --- C10: crooked -----------------------------------------------------------------------------------------------------


@pytest.mark.house(neighbour=False)
async def test_C10_a_header_without_an_end(house: ServerHarness) -> None:
    for piece in (b"x" * 65536, b"X-Header: " + b"y" * 100 + b"\r\n"):
        async with wire(house.server.socket_path) as long:
            long.send(b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-Long: ")
            for _ in range(4 * DEFAULT_LIMITS.header_max_bytes // len(piece) + 2):
                long.send(piece)
            said = await long.rest()
            assert said.startswith(b"HTTP/1.1 431 "), said
            assert b'"code":"headers_too_large"' in said
    (await house.new_client().get("/v1/health")).expect(200)


BAD_CHUNKS = (
    b"zz\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5_0\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"0\r\nTrailer: x\r\n\r\n",
)


@pytest.mark.house(neighbour=False)
async def test_C10_chunks_that_cannot_be_read(house: ServerHarness) -> None:
    begin = b"POST /v1/workspaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for chunks in BAD_CHUNKS:
        async with wire(house.server.socket_path) as bad:
            bad.send(begin + chunks)
            assert_refused_once(await bad.rest(), chunks)
    async with wire(house.server.socket_path) as endless:
        endless.send(begin + b"5" * 200)
        assert_refused_once(await endless.rest(), b"a size without an end")
    assert await still_open(house)


CROOKED = [
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 5\r\nContent-Length: 5",
    b"Content-Length: 5, 6",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Transfer-Encoding: chunked\r\ncontent-length: 5",
    b"Content-Length: 5\r\nTransfer-Encoding:\tchunked",
    b"Content-Length: 5\r\nTransfer-Encoding : chunked",
    b"Content-Length: 5\r\n Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: ",
    b"Content-Length: -5",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length: 5.0",
    b"Content-Length: 5 5",
    b"Content-Length: ",
    b"Content-Length: \xb2",
    b"Content-Length: 99999999999999999999999999999999",
]


NO_HTTP = (
    b"GARBAGE\r\n\r\n",
    b"GET  /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/he alth HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\r\n\r\n",
)


@pytest.mark.house(neighbour=False)
async def test_C10_what_is_not_http_gets_an_error_like_all_others(house: ServerHarness) -> None:
    for said in NO_HTTP:
        async with wire(house.server.socket_path) as bad:
            bad.send(said)
            assert_refused_once(await bad.rest(), said)
    assert await still_open(house)


@pytest.mark.house(limits={"body_max_bytes": 100_000}, neighbour=False)
async def test_C10_a_body_that_was_refused_already_is_not_refused_again(house: ServerHarness) -> None:
    async with wire(house.server.socket_path) as large:
        large.send(b"POST /v1/workspaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        large.send(b"30d40\r\n" + b"x" * 200_000 + b"\r\n" + b"zz\r\n")
        said = await large.rest()
        assert said.count(b"HTTP/1.1 ") == 1, said
        assert said.startswith(b"HTTP/1.1 413 "), said


@pytest.mark.house(neighbour=False)
async def test_C10_no_second_request_comes_in_behind_a_crooked_one(house: ServerHarness) -> None:
    workspace = await house.workspace()
    prompt = b'{"session_id":"%b","run_id":"smuggled","prompt":"/say gotcha"}' % workspace.session.encode()
    agent = b"POST /v1/workspaces/%b/agent HTTP/1.1\r\nHost: x\r\n" % workspace.id.encode()
    second = agent + b"Content-Length: %d\r\n\r\n" % len(prompt) + prompt
    for headers in CROOKED:
        for first in (b"hello", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b""):
            async with wire(house.server.socket_path) as crooked:
                crooked.send(agent + headers + b"\r\n\r\n" + first + second + second)
                assert_refused_once(await crooked.rest(), headers)
    assert house.stored(workspace).runs == []
    assert await still_open(house)


def assert_refused_once(said: bytes, sent: bytes) -> None:
    """One answer, and it says no; then the connection was closed."""
    assert said.count(b"HTTP/1.1 ") == 1, (sent, said)
    assert said.startswith(b"HTTP/1.1 400 "), (sent, said)
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head, (sent, said)
    assert json.loads(body)["code"] == "bad_input", (sent, said)


async def still_open(house: ServerHarness) -> bool:
    """Honest requests, two at once on one connection, are both answered."""
    async with wire(house.server.socket_path) as honest:
        honest.send(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        return [await status(honest), await status(honest)] == [200, 200]


async def status(connection: RawConnection) -> int:
    """Of the next answer."""
    return (await connection.answer())[0]
