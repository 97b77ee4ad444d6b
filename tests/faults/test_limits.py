"""Reach each limit: it refuses with its own code, and other requests are served (X11)."""

import asyncio
import json

import pytest

from tests.support.clients.http_client import head, read_head
from tests.support.clients.raw_requests import say
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness


@pytest.mark.house(limits={"clients_max": 3})
async def test_X11_too_many_event_streams_are_refused(house: ServerHarness) -> None:
    workspace = await house.workspace()  # the second stream: the neighbour has the first
    third = await house.watch(workspace.id, name="third")
    path = f"/v1/workspaces/{workspace.id}/events"
    refused = (await workspace.client.get(path)).expect(503)
    assert refused.code == "too_many_clients"
    assert int(refused.headers["retry-after"]) >= 1
    await workspace.works()  # other requests are still served
    await third.close()

    async def accepted() -> bool:
        reader, writer = await asyncio.open_unix_connection(house.server.socket_path)
        writer.write(head("GET", path, {}))
        status, _ = await read_head(reader)
        writer.close()
        return status == 200

    await eventually(accepted, what="one more stream accepted")


@pytest.mark.house(limits={"queued_prompts_max": 2})
async def test_X11_too_many_queued_prompts_are_refused(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    first, call = await workspace.streaming("one")
    queued = [await workspace.prompt("two"), await workspace.prompt("three")]
    refused = (await workspace.client.submit(workspace.id, workspace.session, "four")).expect(429)
    assert refused.code == "queue_full"
    other = await workspace.client.create_session(workspace.id, "another session has a queue of its own")
    beside = await workspace.client.prompt(workspace.id, other, "five")
    await (await house.provider.next_call()).reply("beside")
    assert (await workspace.ended(beside))["text"] == "beside"
    await call.reply("!")
    await workspace.ended(first)
    for run in queued:
        await (await house.provider.next_call()).reply("rest")
        assert (await workspace.ended(run))["text"] == "rest"
    assert len(house.stored(workspace).runs) == 4, "the refused prompt was stored"


@pytest.mark.house(limits={"body_max_bytes": 100_000, "prompt_max_bytes": 50_000, "header_max_bytes": 8_000})
async def test_X11_large_bodies_prompts_and_headers_are_refused(house: ServerHarness) -> None:
    workspace = await house.workspace()
    agent = f"/v1/workspaces/{workspace.id}/agent"
    refused = await workspace.client.submit(workspace.id, workspace.session, "x" * 60_000)
    assert refused.expect(413).code == "too_large"
    refused = await workspace.client.submit(workspace.id, workspace.session, "x" * 100_000)
    assert refused.expect(413).code == "too_large"
    socket = str(house.server.socket_path)
    response = await say(socket, f"POST {agent} HTTP/1.1\nHost: x\nContent-Length: 999999999999")
    assert (response.status, response.code) == (413, "too_large"), "the length must be checked before the body is read"
    chunk = b"%x\r\n%b\r\n" % (90_000, b"x" * 90_000)
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(head("POST", agent, {"Transfer-Encoding": "chunked"}) + chunk * 2)
    status, headers = await read_head(reader)
    answer = json.loads(await reader.readexactly(int(headers["content-length"])))
    writer.close()
    assert (status, answer["code"]) == (413, "too_large"), "chunks must be counted when there is no length"
    response = await say(socket, f"GET /v1/version HTTP/1.1\nHost: x\nX-Long: {'x' * 9_000}")
    assert (response.status, response.code) == (431, "headers_too_large")
    assert await workspace.messages() == []
    await workspace.works()


@pytest.mark.house(limits={"workspaces_max": 2})
async def test_X11_too_many_workspaces_are_refused(house: ServerHarness) -> None:
    workspace = await house.workspace()  # the second: the neighbour is the first
    path = house.directory("third", "script")
    body = {"path": str(path), "client_id": workspace.client.client_id}
    assert (await workspace.client.post("/v1/workspaces", body)).expect(429).code == "too_many_workspaces"
    assert not (path / ".bulkhead").exists()
    assert (await workspace.client.create(workspace.path))["id"] == workspace.id, (
        "an existing workspace must still be returned"
    )
    await workspace.works()
    (await workspace.client.request("DELETE", f"/v1/workspaces/{workspace.id}/registration")).expect(200)
    await workspace.watcher.connection_ended()
    assert (await workspace.client.create(path))["id"] != workspace.id


@pytest.mark.house(limits={"calls_in_flight_max": 2})
async def test_X11_too_many_calls_to_one_worker_are_refused(house: ServerHarness) -> None:
    workspace = await house.workspace()
    shell = f"/v1/workspaces/{workspace.id}/agent/sessions/{workspace.session}/shell"
    pipe, command = house.pipe(), "echo here > {}; exec sleep 1000"
    body = {"command": command.format(pipe.path)}
    pending = [asyncio.ensure_future(house.new_client().post(shell, body, timeout_s=30.0)) for _ in range(2)]
    for _ in pending:
        await pipe.line()
    assert (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")).expect(429).code == "too_many_calls"
    (await workspace.client.get(f"/v1/workspaces/{house.neighbour.workspace}/sessions")).expect(200)
    for request in pending:
        request.cancel()
    await asyncio.wait(pending)

    async def answered() -> bool:
        return (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")).status == 200

    await eventually(answered, what="one more call accepted")
    await workspace.works()
