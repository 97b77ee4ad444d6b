"""Serve clients that stop reading or vanish, and requests that are slow, endless or malformed (C01, C10)."""

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
"""Memory that all clients of a workspace may take together (`stream_queue_max_bytes`), and that of the traffic."""

SLOW = {"header_deadline_s": 0.4, "body_deadline_s": 0.4}
TRICKLE_S = 0.05


# --- C01: the stream of a client that reads nothing -------------------------------------------------------------------


@pytest.mark.house(limits={"stream_write_deadline_s": 0.5})
async def test_C01_a_client_that_stops_reading_is_cut_and_resumes(house: ServerHarness) -> None:
    workspace = await house.workspace()
    slow = LightReader(house.server.socket_path, workspace.id)
    with closed_at_end([slow]):
        assert await slow.open(receive_buffer=1) == 200
        await eventually(lambda: slow.base, what="the first id")
        slow.pause()
        before = peak_bytes(house.server.pid)
        await stream_much(workspace, 8)
        await eventually(lambda: "slow client cut" in house.server.log, what="the slow client cut")
        assert peak_bytes(house.server.pid) - before < KEPT_BYTES_MAX
        slow.resume()
        await eventually(lambda: not slow.is_open, what="the end of its connection")
        await check_resumes(house, workspace, slow)


@pytest.mark.house(limits={"stream_write_deadline_s": 0.5})
async def test_C01_a_client_that_vanishes_behind_a_proxy_is_cut_and_resumes(house: ServerHarness) -> None:
    workspace = await house.workspace()
    before = len(descriptors(house.server.pid))
    async with Proxy(house.root / "proxy", house.server.socket_path) as proxy:
        vanished = LightReader(proxy.path, workspace.id)
        with closed_at_end([vanished]):
            assert await vanished.open() == 200
            await eventually(lambda: vanished.base, what="the first id")
            first = await workspace.prompt("/say before")
            await all_saw_end([vanished], first)
            proxy.freeze()
            await stream_much(workspace, 8)
            await eventually(lambda: "slow client cut" in house.server.log, what="the vanished client cut")
            await eventually(lambda: len(descriptors(house.server.pid)) <= before, what="its descriptor closed")
            assert vanished.is_open, "the client must not notice the cut yet"
            vanished.close()
            await check_resumes(
                house, workspace, LightReader(house.server.socket_path, workspace.id, vanished.last_id), vanished
            )


async def stream_much(workspace: WorkspaceFixture, runs: int) -> None:
    """Stream more than the buffers between the server and a client hold; the workspace's own client reads all of it."""
    for number in range(runs):
        run = await workspace.prompt(f"/say {number} {'x' * LARGE}")
        await workspace.ended(run)


async def check_resumes(
    house: ServerHarness, workspace: WorkspaceFixture, reader: LightReader, before: LightReader | None = None
) -> None:
    """Reconnect with the last id; check that no event is missing or doubled, those that `before` has read included."""
    with closed_at_end([reader]):
        assert await reader.open() == 200
        last = await workspace.prompt("/say the last")
        await all_saw_end([reader], last)
    first = before or reader
    if before is not None:
        reader.events[:0] = before.events
    assert_exact(reader, house.stored(workspace), after=first.base)


# --- C10: slow --------------------------------------------------------------------------------------------------------


INCOMPLETE_HEADS = (
    b"G",
    b"GET /v1/health HTTP/1.1\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-A: b\r\n",
    b"\x16\x03\x01\x00\x04",
)


@pytest.mark.parametrize("begin", INCOMPLETE_HEADS)
@pytest.mark.house(limits=SLOW, neighbour=False)
async def test_C10_headers_that_do_not_end_in_time_get_408(house: ServerHarness, begin: bytes) -> None:
    async with wire(house.server.socket_path) as silent, wire(house.server.socket_path) as slow:
        silent.send(begin)
        slow.send(begin)
        trickling = asyncio.ensure_future(slow.trickle(b"X" * 4000, TRICKLE_S))
        for response in (await silent.rest(), await trickling):
            assert response.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), response
            assert b'"code":"request_timeout"' in response
    (await house.new_client().get("/v1/health")).expect(200)


@pytest.mark.house(limits=SLOW, neighbour=False)
async def test_C10_an_idle_connection_stays_open_and_a_slow_request_gets_408(house: ServerHarness) -> None:
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
async def test_C10_a_body_that_does_not_end_in_time_closes_the_connection(house: ServerHarness, framing: bytes) -> None:
    workspace = await house.workspace()
    async with wire(house.server.socket_path) as slow:
        slow.send(b"POST /v1/workspaces/%b/agent HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (workspace.id.encode(), framing))
        slow.send(b"a00\r\n" if b"chunked" in framing else b"")
        assert await slow.trickle(b'{"session_id":"' + b"x" * 2000, TRICKLE_S) == b""
    assert house.stored(workspace).runs == []
    await workspace.works()


# --- C10: malformed ---------------------------------------------------------------------------------------------------


@pytest.mark.house(neighbour=False)
async def test_C10_headers_above_the_limit_get_431(house: ServerHarness) -> None:
    for piece in (b"x" * 65536, b"X-Header: " + b"y" * 100 + b"\r\n"):
        async with wire(house.server.socket_path) as long:
            long.send(b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-Long: ")
            for _ in range(4 * DEFAULT_LIMITS.header_max_bytes // len(piece) + 2):
                long.send(piece)
            response = await long.rest()
            assert response.startswith(b"HTTP/1.1 431 "), response
            assert b'"code":"headers_too_large"' in response
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
async def test_C10_malformed_chunks_get_400(house: ServerHarness) -> None:
    begin = b"POST /v1/workspaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for chunks in BAD_CHUNKS:
        async with wire(house.server.socket_path) as bad:
            bad.send(begin + chunks)
            assert_refused_once(await bad.rest(), chunks)
    async with wire(house.server.socket_path) as endless:
        endless.send(begin + b"5" * 200)
        assert_refused_once(await endless.rest(), b"a size without an end")
    assert await still_answers(house)


AMBIGUOUS_HEADERS = [
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


NOT_HTTP = (
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
async def test_C10_bytes_that_are_not_http_get_400_with_a_code(house: ServerHarness) -> None:
    for data in NOT_HTTP:
        async with wire(house.server.socket_path) as bad:
            bad.send(data)
            assert_refused_once(await bad.rest(), data)
    assert await still_answers(house)


@pytest.mark.house(limits={"body_max_bytes": 100_000}, neighbour=False)
async def test_C10_a_body_that_is_too_large_and_malformed_is_refused_once(house: ServerHarness) -> None:
    async with wire(house.server.socket_path) as large:
        large.send(b"POST /v1/workspaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        large.send(b"30d40\r\n" + b"x" * 200_000 + b"\r\n" + b"zz\r\n")
        response = await large.rest()
        assert response.count(b"HTTP/1.1 ") == 1, response
        assert response.startswith(b"HTTP/1.1 413 "), response


@pytest.mark.house(neighbour=False)
async def test_C10_no_request_is_smuggled_behind_one_with_ambiguous_framing(house: ServerHarness) -> None:
    workspace = await house.workspace()
    prompt = b'{"session_id":"%b","run_id":"smuggled","prompt":"/say gotcha"}' % workspace.session.encode()
    agent = b"POST /v1/workspaces/%b/agent HTTP/1.1\r\nHost: x\r\n" % workspace.id.encode()
    second = agent + b"Content-Length: %d\r\n\r\n" % len(prompt) + prompt
    for headers in AMBIGUOUS_HEADERS:
        for first in (b"hello", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b""):
            async with wire(house.server.socket_path) as bad:
                bad.send(agent + headers + b"\r\n\r\n" + first + second + second)
                assert_refused_once(await bad.rest(), headers)
    assert house.stored(workspace).runs == []
    assert await still_answers(house)


def assert_refused_once(response: bytes, sent: bytes) -> None:
    """Check that what came until the connection was closed is one answer, a 400."""
    assert response.count(b"HTTP/1.1 ") == 1, (sent, response)
    assert response.startswith(b"HTTP/1.1 400 "), (sent, response)
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head, (sent, response)
    assert json.loads(body)["code"] == "bad_input", (sent, response)


async def still_answers(house: ServerHarness) -> bool:
    """Return whether two valid requests, sent at once over one connection, are both answered."""
    async with wire(house.server.socket_path) as connection:
        connection.send(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        return [await status(connection), await status(connection)] == [200, 200]


async def status(connection: RawConnection) -> int:
    """Return the status of the next answer."""
    return (await connection.answer())[0]
