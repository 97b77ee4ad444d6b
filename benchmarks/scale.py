"""Measure many at once: new workspaces prompted together, many streaming sessions, and stopping all of them."""

import asyncio
import time
from collections.abc import Sequence

from benchmarks.client import Client, Events
from benchmarks.floors import Floors
from benchmarks.server import Server, running_server
from benchmarks.table import Figure, percentile_ms, shown

MANY = 20
RATE_PER_S = 50
STREAM_S = 8


async def measure(floors: Floors) -> list[Figure]:
    """Measure and return the figures of this group."""
    async with running_server() as service:
        client = service.client()
        await client.create(service.make_directory("warm"))
        figures = [await _together(service, floors)]
        workspaces = [await client.create(service.make_directory(f"s{number}")) for number in range(MANY)]
        figures.append(await _delays(service, workspaces, f"{MANY} workspaces with a session each", floors))
        figures.append(await _delays(service, workspaces[:1] * MANY, f"{MANY} sessions of one workspace", floors))
        client.close()
    async with running_server() as service:
        figures.append(await _stopped(service, floors))
    return figures


async def _together(service: Server, floors: Floors) -> Figure:
    paths = [service.make_directory(f"t{number}") for number in range(MANY)]

    async def one(number: int) -> None:
        client = service.client()
        workspace = await client.create(paths[number])
        session = await client.session(workspace)
        events = await client.events(workspace)
        run = await client.prompt(workspace, session, "/tokens 200")
        end = await events.end_of(run)
        assert "error" not in end.payload, end.payload
        events.close()
        client.close()

    started = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(MANY)))
    took = time.monotonic() - started
    return Figure(
        name=f"{MANY} new workspaces prompted at once, all done",
        value=took,
        unit="s",
        goal=3,
        floor=floors.of(fork=f"{MANY} times: bare fork", script_200="model read directly"),
    )


async def _delays(service: Server, workspaces: Sequence[str], name: str, floors: Floors) -> Figure:
    """Measure token delays: a token is the time of its creation, and arrives with the first event that contains it."""
    count = RATE_PER_S * STREAM_S
    client = service.client()
    sessions = [await client.session(workspace) for workspace in workspaces]
    streams = {workspace: await client.events(workspace) for workspace in dict.fromkeys(workspaces)}
    readers = [
        asyncio.create_task(_read(events, {s for w, s in zip(workspaces, sessions, strict=True) if w == workspace}))
        for workspace, events in streams.items()
    ]
    runs = [
        await client.prompt(workspace, session, f"/stamp {count} {RATE_PER_S}")
        for workspace, session in zip(workspaces, sessions, strict=True)
    ]
    delays: list[float] = []
    texts: dict[str, str] = {}
    ended: list[str] = []
    for session_delays, session_texts, ends in await asyncio.gather(*readers):
        delays += session_delays
        texts |= session_texts
        ended += ends
    lost = sum(count - len(text.split()) for text in texts.values())
    assert sorted(ended) == sorted(runs), "a run ended twice, or never"
    assert len(delays) == count * len(sessions) - lost
    for workspace, session in zip(workspaces, sessions, strict=True):
        messages = await client.ask("GET", f"/v1/workspaces/{workspace}/sessions/{session}/messages")
        stored = [
            part["data"]["text"]
            for message in messages
            if message["role"] == "assistant"
            for part in message["parts"]
            if part["type"] == "text"
        ]
        assert stored == [texts[session]], "what was streamed is not what was stored"
    for events in streams.values():
        events.close()
    client.close()
    return Figure(
        name=f"delay from model to client, p95: {name}, {RATE_PER_S} tokens/s each",
        value=percentile_ms(delays, 95),
        unit="ms",
        goal=50,
        floor=floors.of(timer_p95="timers of an idle loop, p95"),
        note=(
            f"p50 {shown(percentile_ms(delays, 50))} ms, p99 {shown(percentile_ms(delays, 99))} ms; {lost} of "
            f"{count * len(sessions):,} tokens lost, none doubled; a growing message is shown every 33 ms"
        ),
    )


async def _read(events: Events, sessions: set[str]) -> tuple[list[float], dict[str, str], list[str]]:
    """Return the delay of each token, the last text of each session, and the runs that ended."""
    delays: list[float] = []
    texts = dict.fromkeys(sessions, "")
    ends: list[str] = []
    async with asyncio.timeout(STREAM_S * 4 + 20):
        async for event in events:
            session = event.payload.get("session_id", "")
            if session not in sessions:
                continue
            if event.kind == "run_complete":
                ends.append(event.payload["run_id"])
                if len(ends) == len(sessions):
                    break
            elif event.kind == "message" and event.payload["role"] == "assistant":
                before, now = texts[session], event.text
                assert now.startswith(before), "a text that was sent has changed"
                # Only whole tokens are sent, so each new word is a token.
                new = now[len(before) :].split()
                delays += [event.at - float(stamp) for stamp in new]
                texts[session] = now
    return delays, texts, ends


async def _stopped(service: Server, floors: Floors) -> Figure:
    client = service.client()

    async def one(number: int) -> Client:
        mine = service.client()
        workspace = await mine.create(service.make_directory(f"r{number}"))
        session = await mine.session(workspace)
        events = await mine.events(workspace)
        await mine.prompt(workspace, session, f"/tokens 100000 {RATE_PER_S}")
        await events.first_text()
        events.close()
        return mine

    clients = await asyncio.gather(*(one(number) for number in range(MANY)))
    took = await service.stop()
    for each in clients:
        each.close()
    client.close()
    return Figure(
        name=f"{MANY} running runs stopped, SIGTERM to the end of the service",
        value=took,
        unit="s",
        goal=2,
        floor=floors.of(commit=f"{MANY} times: bare commit"),
        note=f"exit code {service.process.returncode}",
    )
