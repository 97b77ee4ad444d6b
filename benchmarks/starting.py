"""Measure start times: the server, a workspace, its first token, the replacement of a killed worker."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.client import Client
from benchmarks.floors import Floors
from benchmarks.server import Server, running_server
from benchmarks.table import Figure, median_ms, shown

SERVERS = 5
WORKSPACES = 15
STABLE_READINGS = 10
KILLS = 12  # one per worker: a second one within a minute is delayed by the restart back-off


async def measure(floors: Floors) -> list[Figure]:
    """Measure and return the figures of this group."""
    figures = [await _healthy(floors)]
    async with running_server() as service:
        client = service.client()
        started = time.monotonic()
        first_one = await client.create(service.make_directory("warm"))
        warm_s = time.monotonic() - started
        await client.request("DELETE", f"/v1/workspaces/{first_one}/registration")
        await _zygote_at_rest(service.process.pid)
        usable, first = [], []
        for number in range(WORKSPACES):
            started = time.monotonic()
            workspace = await client.create(service.make_directory(f"n{number}"))
            usable.append(time.monotonic() - started)
            first.append(await _first_token(client, workspace))
        replaced = []
        for number in range(KILLS):
            workspace = await client.create(service.make_directory(f"d{number}"))
            replaced.append(await _replaced(client, workspace))
        figures += [
            Figure(
                name="a new workspace usable, p50",
                value=median_ms(usable),
                unit="ms",
                goal=30,
                floor=floors.of(fork="bare fork", tornado="bare handler", zmq="bare round trip", commit="bare commit"),
                note=f"{WORKSPACES} in a row; the first one, while the zygote warms up, {shown(warm_s)} s",
            ),
            Figure(
                name="first token event of the first prompt, p50",
                value=median_ms(first),
                unit="ms",
                goal=150,
                floor=floors.of(tornado="bare handler", script_200="model read directly, 200 tokens"),
            ),
            Figure(
                name="death of a worker to its replacement ready, p50",
                value=median_ms(replaced),
                unit="ms",
                goal=100,
                floor=floors.of(fork="bare fork"),
                note=f"{len(replaced)} SIGKILLs, seen on the event stream",
            ),
        ]
        client.close()
    return figures


async def _healthy(floors: Floors) -> Figure:
    took = []
    for _ in range(SERVERS):
        root = Path(tempfile.mkdtemp(prefix="bulkhead-bench-"))
        service = Server(root)
        try:
            took.append(await service.healthy())
        finally:
            await service.stop()
            shutil.rmtree(root, ignore_errors=True)
    return Figure(
        name="first healthy answer of `serve`, p50",
        value=median_ms(took),
        unit="ms",
        goal=500,
        floor=floors.of(interpreter="bare interpreter", imports="with its libraries imported"),
        note=f"{SERVERS} fresh starts",
    )


async def _first_token(client: Client, workspace: str) -> float:
    session = await client.session(workspace)
    events = await client.events(workspace)
    started = time.monotonic()
    posting = asyncio.create_task(client.prompt(workspace, session, "/tokens 5"))
    event = await events.first_text()
    await posting
    events.close()
    return event.at - started


async def _replaced(client: Client, workspace: str) -> float:
    events = await client.events(workspace)
    pid = (await client.worker(workspace))["pid"]
    started = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    left = await events.until(lambda e: e.kind == "workspace_state" and e.payload["state"] != "ready")
    back = await events.until(lambda e: e.kind == "workspace_state" and e.payload["state"] == "ready")
    events.close()
    assert left.at <= back.at
    return back.at - started


async def _zygote_at_rest(server_pid: int) -> None:
    """Wait until the zygote, which has no workers now, has moved its memory into huge pages."""
    zygote = next(child.pid for child in psutil.Process(server_pid).children() if "zygote" in child.cmdline()[0])
    readings = [-1]
    while len(readings) < STABLE_READINGS or readings[-1] != readings[-STABLE_READINGS]:
        await asyncio.sleep(0.1)
        rollup = await asyncio.to_thread(Path(f"/proc/{zygote}/smaps_rollup").read_text)
        readings.append(int(rollup.partition("AnonHugePages:")[2].split()[0]))
