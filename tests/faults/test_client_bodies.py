"""Send request bodies at the size limit and above it, while another client must still be answered."""

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
ANSWERS_MIN = 3
CLIENTS = 5


async def test_C08_a_prompt_at_the_limit_is_stored_whole_and_one_above_is_not(house: ServerHarness) -> None:
    workspace = await house.workspace()
    text = "/say stored\n" + "ä漢🦀z" * (LIMIT // 11)
    text += "." * (LIMIT - len(text.encode()))
    async with others_answered(house):
        assert (await submit(workspace, "at-the-limit", text)).status == 202
    assert (await workspace.ended("at-the-limit"))["text"] == "stored"
    user, _ = await workspace.messages()
    assert texts(user) == text, "the prompt was not stored whole"
    async with others_answered(house):
        refused = await submit(workspace, "above-the-limit", text + ".")
    assert refused.expect(413).code == "too_large"
    assert [run.id for run in house.stored(workspace).runs] == ["at-the-limit"]
    await workspace.works()


async def test_C08_ten_times_the_limit_is_refused_by_the_content_length(house: ServerHarness) -> None:
    workspace = await house.workspace()
    async with wire(house.server.socket_path) as connection:
        connection.send(head("POST", f"/v1/workspaces/{workspace.id}/agent", {"Content-Length": str(10 * LIMIT)}))
        status, headers, body = await connection.answer()  # not one byte of the body was sent
        assert (status, json.loads(body)["code"], headers["connection"]) == (413, "too_large", "close")
        assert await connection.rest() == b""
    assert house.stored(workspace).runs == []
    await workspace.works()


async def test_C08_ten_times_the_limit_in_chunks_is_refused_soon_after_the_limit(house: ServerHarness) -> None:
    workspace = await house.workspace()
    before, sent = peak_bytes(house.server.pid), 0
    async with wire(house.server.socket_path) as connection:
        connection.send(head("POST", f"/v1/workspaces/{workspace.id}/agent", {"Transfer-Encoding": "chunked"}))
        response = asyncio.ensure_future(connection.answer())
        async with others_answered(house) as answered:
            while not response.done() and sent < 10 * LIMIT:
                connection.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
                sent += len(PIECE)
                await connection.sent()
                async with asyncio.timeout(10):
                    await answered.wait()  # in the middle of the body
        status, headers, body = await response
        assert (status, json.loads(body)["code"], headers["connection"]) == (413, "too_large", "close")
        assert BODY_LIMIT <= sent < 2 * BODY_LIMIT, "the body was read far beyond the limit"
        assert await connection.rest() == b""
    assert peak_bytes(house.server.pid) - before < 2 * BODY_LIMIT
    assert house.stored(workspace).runs == []
    await workspace.works()


async def test_C08_clients_that_stop_in_the_middle_of_large_bodies_delay_no_other_client(house: ServerHarness) -> None:
    workspace = await house.workspace()
    runs = [f"prompt-{number}" for number in range(CLIENTS)]
    bodies = [
        json.dumps(
            {"session_id": workspace.session, "run_id": run, "prompt": "/say stored\n" + "x" * (LIMIT // 16)}
        ).encode()
        for run in runs
    ]
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(wire(house.server.socket_path)) for _ in runs]
        for connection, body in zip(connections, bodies, strict=True):
            connection.send(head("POST", f"/v1/workspaces/{workspace.id}/agent", {"Content-Length": str(len(body))}))
            connection.send(body[: len(body) // 2])
            await connection.sent()
        await workspace.works()
        async with others_answered(house) as answered:
            async with asyncio.timeout(10):
                await answered.wait()
            for connection, body, run in zip(connections, bodies, runs, strict=True):
                house.client_log.submitted(workspace.id, workspace.session, run)
                connection.send(body[len(body) // 2 :])
            for connection in connections:
                assert (await connection.answer())[0] == 202
    for run in runs:
        assert (await workspace.ended(run))["text"] == "stored"


async def submit(workspace: WorkspaceFixture, run: str, text: str) -> Response:
    """Submit a prompt whose text is sent as UTF-8; escaped as JSON it would exceed the limit of a body."""
    workspace.client.client_log.submitted(workspace.id, workspace.session, run)
    body = {"session_id": workspace.session, "run_id": run, "prompt": text}
    raw = json.dumps(body, ensure_ascii=False).encode()
    return await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent", raw=raw)


@contextlib.asynccontextmanager
async def others_answered(house: ServerHarness) -> AsyncIterator[asyncio.Event]:
    """Send requests of another client to the server and to the neighbour's worker, and check that they are answered.

    The event is set after a few answers. On exit the function waits for it, since the block may end sooner than that.
    """
    client, answered = house.new_client(), asyncio.Event()

    async def send_requests() -> None:
        for number in itertools.count(1):
            (await client.get("/v1/health")).expect(200)
            (await client.get(f"/v1/workspaces/{house.neighbour.workspace}/sessions")).expect(200)
            if number >= ANSWERS_MIN:
                answered.set()

    requests = asyncio.ensure_future(send_requests())
    try:
        yield answered
        await eventually(
            lambda: answered.is_set() or requests.done(), what="answers for the other client", timeout_s=10.0
        )
        assert not requests.done(), requests
    finally:
        requests.cancel()
        await asyncio.wait({requests})
