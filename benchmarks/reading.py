"""Measure a read request through supervisor, ZeroMQ and worker: the list of sessions."""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.client import Client
from benchmarks.floors import Floors, bare_handler
from benchmarks.server import running_server
from benchmarks.table import Figure, median_ms, percentile_ms, shown

SESSIONS = 20
WARM_ROUNDS = 200
ROUNDS = 1500
AT_ONCE = 16
LOAD_S = 4.0


async def measure(floors: Floors) -> list[Figure]:
    """Measure and return the figures of this group."""
    async with running_server() as service:
        client = service.client()
        workspace = await client.create(service.make_directory("w"))
        for _ in range(SESSIONS):
            await client.session(workspace)
        target = f"/v1/workspaces/{workspace}/sessions"
        await _one_by_one(client, "GET", target, WARM_ROUNDS)
        took = await _one_by_one(client, "GET", target, ROUNDS)
        through_service = await _rate([service.client() for _ in range(AT_ONCE)], "GET", target)
        client.close()
    with tempfile.TemporaryDirectory(prefix="bulkhead-bare-") as name:
        async with bare_handler(Path(name) / "http") as path:
            bare = await _rate([Client(path) for _ in range(AT_ONCE)], "POST", "/v1/x")
    return [
        Figure(
            name=f"GET …/sessions ({SESSIONS} of them), one after the other, p50",
            value=median_ms(took),
            unit="ms",
            goal=3,
            floor=floors.of(tornado="bare handler", zmq="bare round trip"),
            note=f"p95 {shown(percentile_ms(took, 95))} ms",
        ),
        Figure(
            name=f"GET …/sessions, {AT_ONCE} clients at once",
            value=through_service,
            unit="requests/s",
            goal=1000,
            more_is_better=True,
            floor=f"bare handler {shown(bare)} requests/s, bare round trips one by one {shown(1000 / floors.zmq_ms)}/s",
            note="the clients run on the same cores",
        ),
    ]


async def _one_by_one(client: Client, method: str, target: str, rounds: int) -> list[float]:
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        status, _ = await client.request(method, target)
        took.append(time.perf_counter() - started)
        _check(status, target)
    return took


async def _rate(clients: Sequence[Client], method: str, target: str) -> float:
    """Return the responses per second to clients that send a new request after each response."""
    end = time.perf_counter() + LOAD_S

    async def load(client: Client) -> int:
        count = 0
        while time.perf_counter() < end:
            status, _ = await client.request(method, target)
            _check(status, target)
            count += 1
        client.close()
        return count

    started = time.perf_counter()
    counts = await asyncio.gather(*(load(client) for client in clients))
    return sum(counts) / (time.perf_counter() - started)


def _check(status: int, target: str) -> None:
    if status >= 300:
        raise RuntimeError(f"{target}: {status}")
