"""Fault matrix 9: bodies at the limit and above it; the others are answered meanwhile (C08)."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator

from protocol.limits import DEFAULT_LIMITS
from tests.support.clients.http_client import Response, head, texts
from tests.support.clients.raw_connection import wire
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.process_usage import peak_bytes

LIMIT = DEFAULT_LIMITS.prompt_max_bytes
BODY_LIMIT = DEFAULT_LIMITS.body_max_bytes
PIECE = b"x" * (1 << 20)
OFTEN = 3
UNDER_WAY = 5


async def test_C08_a_prompt_at_the_limit_is_stored_whole_and_one_above_is_not(house: ServerHarness) -> None:
    workspace = await house.workspace()
    text = "/say heard\n" + "ä漢🦀z" * (LIMIT // 11)
    text += "." * (LIMIT - len(text.encode()))
    async with others_are_answered(house):
        assert (await prompted(workspace, "at-the-limit", text)).status == 202
    assert (await workspace.ended("at-the-limit"))["text"] == "heard"
    user, _ = await workspace.messages()
    assert texts(user) == text, "not stored whole"
    async with others_are_answered(house):
        refused = await prompted(workspace, "above-the-limit", text + ".")
    assert refused.expect(413).code == "too_large"
    assert [stored.id for stored in house.stored(workspace).runs] == ["at-the-limit"]
    await workspace.works()


async def test_C08_ten_times_the_limit_is_refused_by_its_length_alone(house: ServerHarness) -> None:
    workspace = await house.workspace()
    async with wire(house.server.socket_path) as large:
        large.send(head("POST", f"/v1/workspaces/{workspace.id}/agent", {"Content-Length": str(10 * LIMIT)}))
        status, headers, body = await large.answer()  # not one byte of the body was sent
        assert (status, json.loads(body)["code"], headers["connection"]) == (413, "too_large", "close")
        assert await large.rest() == b""
    assert house.stored(workspace).runs == []
    await workspace.works()


async def test_C08_ten_times_the_limit_in_chunks_is_refused_on_the_way(house: ServerHarness) -> None:
    workspace = await house.workspace()
    before, sent = peak_bytes(house.server.pid), 0
    async with wire(house.server.socket_path) as large:
        large.send(head("POST", f"/v1/workspaces/{workspace.id}/agent", {"Transfer-Encoding": "chunked"}))
        answering = asyncio.ensure_future(large.answer())
        async with others_are_answered(house) as often:
            while not answering.done() and sent < 10 * LIMIT:
                large.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
                sent += len(PIECE)
                await large.sent()
                async with asyncio.timeout(10):
                    await often.wait()  # in the middle of the body
        status, headers, body = await answering
        assert (status, json.loads(body)["code"], headers["connection"]) == (413, "too_large", "close")
        assert BODY_LIMIT <= sent < 2 * BODY_LIMIT, "it was read on and on"
        assert await large.rest() == b""
    assert peak_bytes(house.server.pid) - before < 2 * BODY_LIMIT
    assert house.stored(workspace).runs == []
    await workspace.works()


async def test_C08_clients_that_stop_in_the_middle_of_large_bodies_hold_nobody_up(house: ServerHarness) -> None:
    workspace = await house.workspace()
    runs = [f"large-{number}" for number in range(UNDER_WAY)]
    bodies = [
        json.dumps(
            {"session_id": workspace.session, "run_id": run, "prompt": "/say heard\n" + "x" * (LIMIT // 16)}
        ).encode()
        for run in runs
    ]
    async with contextlib.AsyncExitStack() as stack:
        halves = [await stack.enter_async_context(wire(house.server.socket_path)) for _ in runs]
        for half, body in zip(halves, bodies, strict=True):
            half.send(head("POST", f"/v1/workspaces/{workspace.id}/agent", {"Content-Length": str(len(body))}))
            half.send(body[: len(body) // 2])
            await half.sent()
        await workspace.works()
        async with others_are_answered(house) as often:
            async with asyncio.timeout(10):
                await often.wait()
            for half, body, run in zip(halves, bodies, runs, strict=True):
                house.client_log.submitted(workspace.id, workspace.session, run)
                half.send(body[len(body) // 2 :])
            for half in halves:
                assert (await half.answer())[0] == 202
    for run in runs:
        assert (await workspace.ended(run))["text"] == "heard"


async def prompted(workspace: WorkspaceFixture, run: str, text: str) -> Response:
    """The answer to a prompt whose text is sent as it is; escaped it would be more than a body may be."""
    workspace.client.client_log.submitted(workspace.id, workspace.session, run)
    wish = {"session_id": workspace.session, "run_id": run, "prompt": text}
    raw = json.dumps(wish, ensure_ascii=False).encode()
    return await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent", raw=raw)


@contextlib.asynccontextmanager
async def others_are_answered(house: ServerHarness) -> AsyncIterator[asyncio.Event]:
    """Meanwhile another client asks the server and the bystander's worker, again and again, and is answered.

    The event is set once it was answered a few times. What is over sooner than that has held nobody up, provided that
    the answers come then.
    """
    client, often = house.new_client(), asyncio.Event()

    async def ask() -> None:
        for number in itertools.count(1):
            (await client.get("/v1/health")).expect(200)
            (await client.get(f"/v1/workspaces/{house.neighbour.workspace}/sessions")).expect(200)
            if number >= OFTEN:
                often.set()

    asking = asyncio.ensure_future(ask())
    try:
        yield often
        await eventually(lambda: often.is_set() or asking.done(), what="answers for the others", timeout_s=10.0)
        assert not asking.done(), asking
    finally:
        asking.cancel()
        await asyncio.wait({asking})
