"""Measure the private memory of a worker: idle, and after two runs."""

import statistics

from benchmarks.floors import Floors
from benchmarks.server import running_server
from benchmarks.table import Figure

WORKERS = 5
MB = 1024 * 1024


async def measure(floors: Floors) -> list[Figure]:
    """Measure and return the figures of this group."""
    async with running_server() as service:
        client = service.client()
        idle, after = [], []
        for number in range(WORKERS):
            workspace = await client.create(service.make_directory(f"m{number}"))
            idle.append((await client.worker(workspace, memory=True))["uss_bytes"])
            session = await client.session(workspace)
            events = await client.events(workspace)
            for prompt in ("/tokens 200", '/tool bash {"description":"d","command":"ls"}\n/tokens 50'):
                await events.end_of(await client.prompt(workspace, session, prompt))
            events.close()
            after.append((await client.worker(workspace, memory=True))["uss_bytes"])
        client.close()
    return [
        Figure(name="private memory of an idle worker, median", value=statistics.median(idle) / MB, unit="MB", goal=8),
        Figure(name="private memory after two runs, median", value=statistics.median(after) / MB, unit="MB", goal=20),
    ]
