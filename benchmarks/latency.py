"""Measure one prompt on a warm worker: until it is durably accepted, its first token, its whole reply."""

import asyncio
import time

from benchmarks.floors import Floors
from benchmarks.server import running_server
from benchmarks.table import Figure, median_ms, percentile_ms, shown

ROUNDS = 60
WARM_ROUNDS = 3  # fill the caches of the processes


async def measure(floors: Floors) -> list[Figure]:
    """Measure and return the figures of this group."""
    async with running_server() as service:
        client = service.client()
        workspace = await client.create(service.make_directory("w"))
        events = await client.events(workspace)
        accepted: list[float] = []
        first: list[float] = []
        whole: list[float] = []
        for number in range(WARM_ROUNDS + ROUNDS):
            if number == WARM_ROUNDS:
                for values in (accepted, first, whole):
                    values.clear()
            session = await client.session(workspace)
            started = time.monotonic()
            run = await client.prompt(workspace, session, "/tokens 200")
            accepted.append(time.monotonic() - started)
            first.append((await events.first_text()).at - started)
            whole.append((await events.end_of(run)).at - started)
            await asyncio.sleep(0.01)  # a user does not send a prompt at the very end of the previous run
        events.close()
        client.close()
    return [
        Figure(
            name="POST to 202, durable, p50",
            value=median_ms(accepted),
            unit="ms",
            goal=4,
            floor=floors.of(tornado="bare handler", zmq="bare round trip", commit="bare commit"),
            note=f"p95 {shown(percentile_ms(accepted, 95))} ms",
        ),
        Figure(
            name="POST to first token event on a warm worker, p50",
            value=median_ms(first),
            unit="ms",
            goal=15,
            floor=floors.of(tornado="bare handler", zmq="bare round trip", commit="bare commit"),
            note=f"p95 {shown(percentile_ms(first, 95))} ms",
        ),
        Figure(
            name="a reply of 200 tokens at full speed, POST to end, p50",
            value=median_ms(whole),
            unit="ms",
            goal=80,
            floor=floors.of(script_200="model read directly"),
            note=f"p95 {shown(percentile_ms(whole, 95))} ms",
        ),
    ]
