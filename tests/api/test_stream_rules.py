"""Test event streams over HTTP: their content and order, reconnecting, and how they end."""

import asyncio
import json
import re
import signal
import uuid
from typing import Any

import pytest

from tests.support.checks.history import Seen
from tests.support.clients.http_client import head, read_head
from tests.support.clients.stream_reader import StreamReader
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture, together

pytestmark = pytest.mark.house(neighbour=False)

ENVELOPE = re.compile(rb'\{"type":"[a-z_]+","payload":\{"type":"(created|updated|deleted)","payload":\{')
RETRY = range(1000, 2001)


class RawStream:
    """An event stream as bytes, for details that the decoder hides."""

    def __init__(self, house: ServerHarness, workspace: str, query: str = "", **headers: str) -> None:
        self._path = house.server.socket_path
        self._target = f"/v1/workspaces/{workspace}/events?client_id={uuid.uuid4()}{query}"
        self._headers = headers
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> "RawStream":
        self.reader, self._writer = await asyncio.open_unix_connection(self._path, limit=1 << 26)
        self._writer.write(head("GET", self._target, self._headers))
        async with asyncio.timeout(10):
            self.status, self.headers = await read_head(self.reader)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(end)


async def all_ended(*watchers: StreamReader, run: str) -> None:
    for watcher in watchers:
        await watcher.ended(run)


def numbered(watcher: StreamReader) -> list[Seen]:
    return [event for event in watcher.seen if event.number and not event.is_base]


async def kill_worker(workspace: WorkspaceFixture) -> None:
    """Kill the worker and wait until the watcher sees that the next one is ready."""
    worker = await workspace.worker()
    seen = len(workspace.watcher.seen)
    await worker.kill()
    await workspace.watcher.state("ready", skip=seen)


# --- opening ------------------------------------------------------------------------------------------------------


@pytest.mark.house(limits={"heartbeat_interval_s": 0.05, "detach_grace_s": 0.0}, neighbour=False)
async def test_headers_are_sent_before_the_worker_has_started(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()

    async def evicted() -> bool:
        return (await workspace.client.post(f"/v1/workspaces/{workspace.id}/evict")).status == 200

    await eventually(evicted, what="eviction")
    house.failpoints.arm("wake.before_spawn")
    async with RawStream(house, workspace.id) as stream:
        hit = await house.failpoints.reached("wake.before_spawn")
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-cache"
        hit.release()
        await workspace.client.prompt(workspace.id, workspace.session, "/say awake", "r-1")
        assert b"awake" in await stream.until(b'"run_id":"r-1"')


async def test_no_event_is_missed_between_the_headers_and_a_prompt(house: ServerHarness) -> None:
    workspace = await house.workspace()
    for number in range(10):
        async with RawStream(house, workspace.id, **{"Accept-Encoding": "gzip"}) as stream:
            assert "content-encoding" not in stream.headers
            run = f"r-{number}"
            await workspace.client.prompt(workspace.id, workspace.session, f"/say number {number}", run)
            text = await stream.until(b'"run_id":"%b"' % run.encode())
            assert b'"type":"created"' in text


# --- content ------------------------------------------------------------------------------------------------------


async def test_a_plain_stream_has_only_what_the_reference_client_knows(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    async with RawStream(house, workspace.id) as stream:
        await workspace.ended(await workspace.prompt("/think hm\n/tokens 20\n/tool ls {}\n/say done"))
        (
            await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/compact", {"scope": 1, "enabled": True})
        ).expect(200)
        await kill_worker(workspace)
        await workspace.client.prompt(workspace.id, workspace.session, "/say last", "r-last")
        text = await stream.until(b'"run_id":"r-last"')
        text += await stream.until(b"\n\n")
    for line in filter(None, text.split(b"\n")):
        assert line.startswith(b"data: "), line
        assert ENVELOPE.match(line[6:]), line
        assert json.loads(line[6:])["type"] not in ("workspace_state", "reset"), line


async def test_two_streams_of_one_client_receive_the_same_events(house: ServerHarness) -> None:
    workspace = await house.workspace()
    second = await house.watch(workspace.id, name="second", client=workspace.client)
    plain = await house.watch(workspace.id, name="plain", client=workspace.client, ids=False)
    runs = [await workspace.prompt(f"/say number {number}") for number in range(5)]
    await all_ended(workspace.watcher, second, plain, run=runs[-1])
    expected = [event.data for event in numbered(workspace.watcher)]
    assert expected == [event.data for event in numbered(second)]
    plain_data = [event.data for event in plain.seen]
    assert [data for data in plain_data if data in set(expected)] == expected


async def test_ids_grow_and_retry_delays_differ_between_clients(house: ServerHarness) -> None:
    workspace = await house.workspace()
    watchers = await together(*(house.watch(workspace.id, name=f"w{n}") for n in range(8)))
    run = await workspace.prompt("/tokens 20")
    await all_ended(workspace.watcher, *watchers, run=run)
    for watcher in (workspace.watcher, *watchers):
        numbers = [event.number for event in numbered(watcher)]
        assert numbers == sorted(set(numbers))
        assert {event.log for event in numbered(watcher)} == {numbered(workspace.watcher)[0].log}
        assert watcher.retry_ms in RETRY
    assert len({watcher.retry_ms for watcher in watchers}) > 1


async def test_a_last_event_id_turns_on_ids_and_replays_all_later_events(house: ServerHarness) -> None:
    workspace = await house.workspace()
    for number in range(3):
        await workspace.ended(await workspace.prompt(f"/say number {number}"))
    log = numbered(workspace.watcher)[0].log
    async with RawStream(house, workspace.id, **{"Last-Event-ID": f"{log}.0"}) as stream:
        assert stream.headers["transfer-encoding"] == "chunked"
        last = numbered(workspace.watcher)[-1]
        text = await stream.until(b"id: %b.%d\n" % (log.encode(), last.number))
    numbers = [int(number) for number in re.findall(rb"id: [^.\n]+\.(\d+)\n", text)]
    assert [number for number in numbers if number] == [*range(1, last.number + 1)]
    assert b"retry: " in text


@pytest.mark.parametrize("cursor", ["nonsense", "otherlog.3", "LOG.999999", "LOG.-1", "LOG.", "."])
async def test_an_unusable_cursor_gives_a_reset_and_the_stream_continues(house: ServerHarness, cursor: str) -> None:
    house.resets_are_fine = True
    workspace = await house.workspace()
    await workspace.ended(await workspace.prompt("/say before"))
    log = numbered(workspace.watcher)[0].log
    async with RawStream(house, workspace.id, "&ids=1", **{"Last-Event-ID": cursor.replace("LOG", log)}) as stream:
        assert stream.status == 200
        await stream.until(b'{"type":"reset"')
        await workspace.client.prompt(workspace.id, workspace.session, "/say after", "r-after")
        await stream.until(b'"run_id":"r-after"')


# --- order --------------------------------------------------------------------------------------------------------


async def test_messages_are_created_before_updates_and_calls_come_before_results(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    run = await workspace.prompt("/tokens 30\n/tool ls {}\n/tool ls {}\n/tokens 5")
    await workspace.ended(run)
    created: set[str] = set()
    calls: set[str] = set()
    for event in workspace.watcher.seen:
        if event.kind != "message":
            continue
        message = event.payload
        if event.change == "created":
            assert message["id"] not in created, "announced twice"
            created.add(message["id"])
        assert message["id"] in created, f"{event.change} before created"
        for part in message["parts"]:
            if part["type"] == "tool_call":
                calls.add(part["data"]["id"])
            if part["type"] == "tool_result":
                assert part["data"]["tool_call_id"] in calls, "a result before its call"
    assert len(calls) == 2
    shown = [event.payload for event in workspace.watcher.seen if event.kind == "message"]
    for message in await workspace.messages():
        assert [payload for payload in shown if payload["id"] == message["id"]][-1]["parts"] == message["parts"]


async def test_run_complete_is_the_last_event_of_a_run_and_equals_the_stored_answer(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    lookups: list[asyncio.Task[dict[str, Any]]] = []
    finished: list[int] = []

    def on_event(event: Seen) -> None:
        if event.kind == "agent_event" and event.payload["type"] == "agent_finished":
            finished.append(len(workspace.watcher.seen))
            lookups.append(asyncio.ensure_future(workspace.client.session(workspace.id, workspace.session)))

    workspace.watcher.on_event = on_event
    run, call = await workspace.streaming()
    await call.reply(" three")
    end = await workspace.ended(run)
    await eventually(lambda: finished, what="agent_finished")
    for task in lookups:
        assert (await task)["is_busy"] is False, "busy after agent_finished"
    stored = await workspace.last_assistant()
    assert (stored["id"], end["text"]) == (end["message_id"], "one two three")
    position = [event.kind for event in workspace.watcher.seen].index("run_complete")
    later = workspace.watcher.seen[position + 1 :]
    assert [event for event in later if event.kind == "message" and event.payload["id"] == stored["id"]] == []
    assert sum(event.kind == "run_complete" for event in workspace.watcher.seen) == 1
    tokens = [event for event in workspace.watcher.seen[:position] if event.kind == "session"]
    assert tokens[-1].payload["completion_tokens"] > 0


# --- staying open, and ending -------------------------------------------------------------------------------------


async def test_streams_stay_open_when_the_worker_dies_or_restarts_or_the_client_retires(house: ServerHarness) -> None:
    workspace = await house.workspace()
    plain = await house.watch(workspace.id, name="plain", ids=False)
    await kill_worker(workspace)
    await workspace.works()
    seen = len(workspace.watcher.seen)
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    await workspace.watcher.state("ready", skip=seen)
    for watcher in (workspace.watcher, plain):
        (await watcher.client.request("DELETE", f"/v1/clients/{watcher.client.client_id}")).expect(200)
    run = await workspace.prompt("/say still here")
    await all_ended(workspace.watcher, plain, run=run)
    assert (await workspace.client.post(f"/v1/workspaces/{workspace.id}/evict")).expect(409).code == "busy"
    assert plain.ends == workspace.watcher.ends == []


async def test_removing_a_workspace_ends_its_streams_cleanly_and_no_others(house: ServerHarness) -> None:
    workspace, other = await house.workspace("w"), await house.workspace("other")
    plain = await house.watch(workspace.id, name="plain", ids=False)
    (await workspace.client.request("DELETE", f"/v1/workspaces/{workspace.id}/registration")).expect(200)
    for watcher in (workspace.watcher, plain):
        assert await watcher.connection_ended() == "clean"
    assert workspace.watcher.retry_ms in RETRY
    reopened = await workspace.client.get(
        f"/v1/workspaces/{workspace.id}/events?client_id={workspace.client.client_id}"
    )
    assert reopened.expect(404).code == "workspace_unknown"
    await other.works()
    assert other.watcher.ends == []
    created = await workspace.client.create(workspace.path)  # as the client does after a 404
    assert created["id"] != workspace.id
    del house.client_log.workspaces[workspace.id]  # its database belongs to the new workspace now
    workspace.id = created["id"]
    assert (await workspace.client.session(workspace.id, workspace.session))["id"] == workspace.session
    await workspace.works_with_new_stream()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_stopping_the_server_ends_streams_cleanly(house: ServerHarness, number: signal.Signals) -> None:
    workspace = await house.workspace(model="openai")
    house.open_runs_are_fine = number == signal.SIGHUP
    plain = await house.watch(workspace.id, name="plain", ids=False)
    run, call = await workspace.streaming()
    house.server.send(number)
    for watcher in (workspace.watcher, plain):
        assert await watcher.connection_ended() == "clean"
    assert workspace.watcher.retry_ms in RETRY
    assert await house.server.ended() == 0
    if number == signal.SIGHUP:  # the worker continues, and the next server adopts it
        await house.server.restart()
        await call.reply(" three")
        workspace.watcher = await house.watch(workspace.id, name="after", client=workspace.client)
        await eventually(lambda: has_ended(workspace, run), timeout_s=10, what="the end of the run")
        assert (await workspace.run(run))["outcome"] == "completed"


async def has_ended(workspace: WorkspaceFixture, run: str) -> bool:
    return (await workspace.run(run))["state"] == "ended"


async def test_killing_the_server_is_a_clean_end_for_a_plain_stream(house: ServerHarness) -> None:
    workspace = await house.workspace()
    plain = await house.watch(workspace.id, name="plain", ids=False)
    await house.server.kill9()
    assert await plain.connection_ended() == "clean"  # after any other end the reference client would wait for ever
    assert await workspace.watcher.connection_ended() == "cut"
    await house.server.restart()
    await workspace.works_with_new_stream()


# --- quiet and slow clients ---------------------------------------------------------------------------------------


@pytest.mark.house(limits={"stream_keepalive_s": 0.05}, neighbour=False)
async def test_quiet_streams_get_empty_lines_and_nothing_else(house: ServerHarness) -> None:
    workspace = await house.workspace()
    async with RawStream(house, workspace.id) as plain, RawStream(house, workspace.id, "&ids=1") as chunked:
        async with asyncio.timeout(10):
            assert await plain.reader.readexactly(3) == b"\n\n\n"
        await chunked.until(b"1\r\n\n\r\n1\r\n\n\r\n")  # two chunks of one empty line
    await workspace.works()


@pytest.mark.house(limits={"stream_write_deadline_s": 0.5}, neighbour=False)
async def test_C01_a_client_that_reads_nothing_is_closed_and_the_others_continue(house: ServerHarness) -> None:
    workspace = await house.workspace()
    slow = RawStream(house, workspace.id)
    async with slow:
        assert (await house.worker(workspace.id))["clients"] == 2
        slow._writer.transport.pause_reading()  # type: ignore[attr-defined]
        run = await workspace.prompt(f"/say {'x' * 1_500_000}")
        end = await workspace.ended(run, timeout_s=20.0)
        assert len(end["text"]) == 1_500_000

        async def closed() -> bool:
            return bool((await house.worker(workspace.id))["clients"] == 1)

        await eventually(closed, timeout_s=10, what="the end of the slow stream")
        slow.reader.feed_eof()
    assert workspace.watcher.ends == []
    await workspace.works()
