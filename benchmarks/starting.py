"""How long things take to begin: the service, a workspace, its first token, a replacement for a dead worker."""

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
from benchmarks.server import Server, server
from benchmarks.table import Figure, median_ms, shown

SERVERS = 5
WORKSPACES = 15
REST_LOOKS = 10
DEATHS = 12  # one of each worker: a second within a minute waits a little on purpose


async def measure(floors: Floors) -> list[Figure]:
    """The figures of this group."""
    figures = [await _healthy(floors)]
    async with server() as house:
        client = house.client()
        begun = time.monotonic()
        first_one = await client.create(house.make_directory("warm"))
        warm_s = time.monotonic() - begun
        await client.request("DELETE", f"/v1/workspaces/{first_one}/registration")
        await _rest(house.process.pid)
        usable, first = [], []
        for number in range(WORKSPACES):
            begun = time.monotonic()
            workspace = await client.create(house.make_directory(f"n{number}"))
            usable.append(time.monotonic() - begun)
            first.append(await _first_token(client, workspace))
        replaced = []
        for number in range(DEATHS):
            workspace = await client.create(house.make_directory(f"d{number}"))
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
        house = Server(root)
        try:
            took.append(await house.healthy())
        finally:
            await house.stop()
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
    begun = time.monotonic()
    posting = asyncio.create_task(client.prompt(workspace, session, "/tokens 5"))
    event = await events.first_text()
    await posting
    events.close()
    return event.at - begun


async def _replaced(client: Client, workspace: str) -> float:
    events = await client.events(workspace)
    pid = (await client.worker(workspace))["pid"]
    begun = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    left = await events.until(lambda e: e.kind == "workspace_state" and e.payload["state"] != "ready")
    back = await events.until(lambda e: e.kind == "workspace_state" and e.payload["state"] == "ready")
    events.close()
    assert left.at <= back.at
    return back.at - begun


async def _rest(server_pid: int) -> None:
    """Wait until the zygote, which has no worker now, has gathered its memory into huge pages."""
    zygote = next(child.pid for child in psutil.Process(server_pid).children() if "zygote" in child.cmdline()[0])
    seen = [-1]
    while len(seen) < REST_LOOKS or seen[-1] != seen[-REST_LOOKS]:
        await asyncio.sleep(0.1)
        rollup = await asyncio.to_thread(Path(f"/proc/{zygote}/smaps_rollup").read_text)
        seen.append(int(rollup.partition("AnonHugePages:")[2].split()[0]))
