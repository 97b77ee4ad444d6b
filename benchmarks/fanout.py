"""Measure one run with many clients: event deliveries per second, live and while clients catch up."""

import asyncio
import re
import time

from benchmarks.client import Events
from benchmarks.floors import Floors, socket_pair_mb_per_s
from benchmarks.server import Server, running_server
from benchmarks.table import Figure, shown

CLIENTS = 50
STEPS = 400  # tool calls; messages, parts and results of each are numbered events
EVENTS_MIN = 1000
TICKS_PER_S = 100  # the unit of CPU time in /proc


async def measure(floors: Floors) -> list[Figure]:
    """Measure and return the figures of this group."""
    async with running_server() as service:
        client = service.client()
        workspace = await client.create(service.make_directory("w"))
        session = await client.session(workspace)
        first = await client.events(workspace)
        warm = await client.prompt(workspace, session, "/say begin")
        cursor = (await first.end_of(warm)).id
        streams = [await client.events(workspace) for _ in range(CLIENTS)]
        counters = [asyncio.create_task(_count_until(events, b'"run_complete"')) for events in streams]
        # Each call differs: repeated identical calls would trigger the loop detection.
        calls = (f'/tool glob {{"pattern": "{number}"}}\n/say next' for number in range(STEPS))
        script = "\n".join([*calls, "/say end"])
        cpu_s = _cpu_s(service)
        started = time.monotonic()
        run = await client.prompt(workspace, session, script)
        ended = await first.end_of(run)
        live = [await counter for counter in counters]
        live_s = time.monotonic() - started
        cpu_s = _cpu_s(service) - cpu_s
        first.close()
        numbered = int(ended.id.rpartition(".")[2]) - int(cursor.rpartition(".")[2])
        assert numbered >= EVENTS_MIN, numbered
        caught_up_s = await _catch_up(service, workspace, cursor, ended.id)
        client.close()
    return [
        Figure(
            name=f"deliveries to {CLIENTS} clients that catch up with one run",
            value=numbered * CLIENTS / caught_up_s,
            unit="events/s",
            goal=150_000,
            more_is_better=True,
            floor=f"bare socket {socket_pair_mb_per_s():,.0f} MB/s",
            note=f"{numbered:,} numbered events each, in {shown(caught_up_s)} s",
        ),
        Figure(
            name=f"deliveries to {CLIENTS} clients, live, for each second of the supervisor's CPU",
            value=sum(live) / max(cpu_s, 1 / TICKS_PER_S),
            unit="events/s",
            floor=floors.of(commit="bare commit"),
            note=f"one run, {live[0]:,} events in {shown(live_s)} s: bounded by its commits, not by the clients",
        ),
    ]


async def _catch_up(service: Server, workspace: str, cursor: str, last: str) -> float:
    """Reconnect all clients at once with the same cursor; return the seconds until each has received the last event."""
    clients = [service.client() for _ in range(CLIENTS)]
    started = time.monotonic()
    streams = await asyncio.gather(*(client.events(workspace, cursor=cursor) for client in clients))
    await asyncio.gather(*(_count_until(events, f"id: {last}\n".encode()) for events in streams))
    took_s = time.monotonic() - started
    for client in clients:
        client.close()
    return took_s


async def _count_until(events: Events, mark: bytes) -> int:
    """Count the events up to the first one that contains `mark`. Bytes are not parsed: many clients share few cores."""
    count, carry = 0, b""
    async with asyncio.timeout(120):
        while block := await events.reader.read(1 << 20):
            text = carry + block
            position = text.find(mark)
            if position >= 0:
                count += len(re.findall(rb"^data: ", text[: text.find(b"\n\n", position)], re.MULTILINE))
                events.close()
                return count
            cut = text.rfind(b"\n\n") + 2 if b"\n\n" in text else 0
            count += len(re.findall(rb"^data: ", text[:cut], re.MULTILINE))
            carry = text[cut:]
    raise RuntimeError("the stream ended")


def _cpu_s(service: Server) -> float:
    """Return the CPU time that the supervisor has used, in seconds."""
    with open(f"/proc/{service.process.pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
