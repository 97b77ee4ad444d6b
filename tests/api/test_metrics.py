"""Test that each number in `GET /metrics` and `GET /v1/workers` changes when its cause happens."""

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import zmq
import zmq.asyncio

from protocol.codec import encode
from protocol.ids import Epoch, Generation, WorkspaceId
from protocol.messages import Heartbeat, Hello
from protocol.version import WIRE_VERSION
from tests.support.clients.http_client import Client
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness

GARBAGE = bytes([WIRE_VERSION]) + b"garbage"
SAMPLE = re.compile(r'([a-z_]+)(?:\{([a-z]+)="([^"\\\n]*)"\})? ([0-9.e+-]+)')


def parse_metrics(text: str) -> dict[tuple[str, str], float]:
    """Parse metrics into (name, label) -> number; check that each family is announced once, before its samples."""
    assert text.endswith("\n")
    announced: list[str] = []
    numbers: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("gauge", "counter")
            announced.append(name)
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            assert match[1] == announced[-1], line
            assert (match[1], match[3] or "") not in numbers, line
            numbers[match[1], match[3] or ""] = float(match[4])
    assert len(set(announced)) == len(announced)
    return numbers


async def numbers_of(client: Client) -> dict[tuple[str, str], float]:
    answer = (await client.get("/metrics")).expect(200)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse_metrics(answer.body.decode())


async def wait_at_least(client: Client, name: str, value: float) -> None:
    async def is_reached() -> bool:
        return (await numbers_of(client))[name, ""] >= value

    await eventually(is_reached, what=f"{name} {value}")


async def worker_row(client: Client, workspace: str) -> dict[str, Any]:
    row: dict[str, Any] = (await client.get(f"/v1/workers/{workspace}")).expect(200).json()
    return row


@asynccontextmanager
async def unknown_peer(house: ServerHarness) -> AsyncIterator["zmq.asyncio.Socket"]:
    """Connect a socket to the address that workers connect to."""
    context = zmq.asyncio.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 1000
    try:
        dealer.connect(f"ipc://{house.server.runtime_dir / 'router.sock'}")
        yield dealer
    finally:
        dealer.close()
        context.term()


def hello_frame(workspace: str) -> bytes:
    """Return a hello with a wrong token."""
    hello = Hello(
        wire_version=WIRE_VERSION,
        code_version="0",
        workspace_id=WorkspaceId(workspace),
        generation=Generation(1),
        token="guessed",
        pid=os.getpid(),
        start_ticks=1,
        boot_id="",
        epoch=Epoch(0),
        ready=True,
    )
    return encode(hello, max_bytes=10_000)


@pytest.mark.house(neighbour=False, limits={"heartbeat_interval_s": 0.05})
async def test_the_metrics_show_workspaces_runs_and_clients(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    client = house.new_client()
    (house.root / "asleep").mkdir()
    other = await client.create(house.root / "asleep")
    (await client.request("DELETE", f"/v1/clients/{client.client_id}")).expect(200)

    async def is_evicted() -> bool:
        return (await client.post(f"/v1/workspaces/{other['id']}/evict")).status == 200

    await eventually(is_evicted, what="eviction after the last call")
    run, call = await workspace.streaming()

    async def look() -> dict[tuple[str, str], float] | None:
        numbers = await numbers_of(client)
        return numbers if numbers["bulkhead_open_runs", ""] == 1 else None

    numbers = await eventually(look, what="a heartbeat that reports the run")
    assert numbers["bulkhead_workspaces", "ready"] == 1
    assert numbers["bulkhead_workspaces", "asleep"] == 1
    assert numbers["bulkhead_workspaces", "failed"] == 0
    assert numbers["bulkhead_event_streams", ""] == numbers["bulkhead_clients", ""] == 1
    assert numbers["bulkhead_worker_deaths", ""] == 0
    assert numbers["bulkhead_worker_resident_memory_bytes", workspace.id] > 1_000_000
    assert ("bulkhead_worker_resident_memory_bytes", other["id"]) not in numbers
    assert numbers["process_resident_memory_bytes", ""] > 1_000_000
    await call.reply("!")
    await workspace.ended(run)


@pytest.mark.house(neighbour=False)
async def test_a_crash_is_shown_with_its_cause_memory_and_last_lines(house: ServerHarness) -> None:
    workspace = await house.workspace()
    client = house.new_client()
    assert (await worker_row(client, workspace.id))["last_crashes"] == []
    pids = []
    for count in (1, 2):
        worker = await workspace.worker()
        pids.append(worker.pid)
        await worker.kill()

        async def is_replaced(count: int = count) -> bool:
            row = await worker_row(client, workspace.id)
            return (row["restarts"], row["state"]) == (count, "ready")

        await eventually(is_replaced, what="the next worker")
    row = await worker_row(client, workspace.id)
    newest, older = row["last_crashes"]
    assert [newest["pid"], older["pid"]] == pids[::-1]
    assert (older["cause"], older["generation"], newest["generation"]) == ("signal 9", 1, 2)
    assert 0 < older["lifetime_s"] < 60
    assert row["started_at"] - 60 < older["ended_at"] < newest["ended_at"]
    assert older["peak_rss_bytes"] > 1_000_000
    assert "generation=1" in older["last_lines"][-1]
    assert "generation=2" in newest["last_lines"][-1]
    listed = await house.worker(workspace.id)
    assert (listed["last_crashes"], listed["restarts"]) == ([newest], 2)
    assert (await numbers_of(client))["bulkhead_worker_deaths", ""] == 2
    unknown = (await client.get("/v1/workers/nothing")).expect(404)
    assert unknown.code == "workspace_unknown"


@pytest.mark.house(
    neighbour=False, limits={"call_deadline_s": 0.5, "heartbeat_interval_s": 0.05, "heartbeat_lost_s": 50.0}
)
async def test_a_stopped_and_continued_worker_shows_loop_lag_and_late_answers(house: ServerHarness) -> None:
    workspace = await house.workspace()
    client = house.new_client()
    before = await worker_row(client, workspace.id)
    assert before["late_answers"] == 0
    worker = await workspace.worker()
    worker.send(signal.SIGSTOP)
    try:
        (await client.get(f"/v1/workspaces/{workspace.id}/sessions")).expect(504)
    finally:
        worker.send(signal.SIGCONT)

    async def shows() -> dict[str, Any] | None:
        row = await worker_row(client, workspace.id)
        return row if row["late_answers"] and row["loop_lag_max_s"] > 0.3 else None

    row = await eventually(shows, what="lag and a late answer")
    assert row["loop_lag_s"] <= row["loop_lag_max_s"]
    numbers = await numbers_of(client)
    assert numbers["bulkhead_worker_late_answers_total", workspace.id] >= 1
    assert numbers["bulkhead_worker_loop_lag_max_seconds", workspace.id] > 0.3
    assert numbers["bulkhead_worker_loop_lag_seconds", workspace.id] >= 0
    assert row["restarts"] == 0


@pytest.mark.house(neighbour=False)
async def test_the_metrics_count_what_the_router_drops(house: ServerHarness) -> None:
    workspace = await house.workspace()
    client = house.new_client()
    names = ("bad_messages", "refused_hellos", "stranger_frames", "cut_peers", "undelivered_messages", "rebinds")
    counters = [f"bulkhead_router_{name}_total" for name in names]
    bad, refused, strange, cut, undelivered, rebound = counters
    numbers = await numbers_of(client)
    assert [numbers[name, ""] for name in counters] == [0] * 6

    async with unknown_peer(house) as dealer:
        await dealer.send(encode(Heartbeat(sequence=1, loop_lag_s=0.0, open_runs=0), max_bytes=1000))
        await wait_at_least(client, strange, 1)
        await dealer.send(hello_frame(workspace.id))
        await wait_at_least(client, refused, 1)
        await dealer.send(GARBAGE)
        await wait_at_least(client, bad, 1)
        assert (await numbers_of(client))[cut, ""] == 0
        for _ in range(20):
            await dealer.send(GARBAGE)
        await wait_at_least(client, cut, 1)

    async def is_undelivered() -> bool:
        async with unknown_peer(house) as dealer:  # closes without reading the refusals
            for _ in range(50):
                await dealer.send(hello_frame(workspace.id))
        return (await numbers_of(client))[undelivered, ""] > 0

    await eventually(is_undelivered, what="an undelivered refusal")
    (house.server.runtime_dir / "router.sock").unlink()
    await wait_at_least(client, rebound, 1)
    await workspace.works()
