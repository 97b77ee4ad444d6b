"""Fault matrix 11: what a tool's child may do; nothing of it outlives its run, and its output is bounded."""

import json
from pathlib import Path
from typing import Any

from tests.support.client import parts_of
from tests.support.house import House, Room
from tests.support.processes import Process


async def test_T01_a_child_that_ignores_SIGTERM_is_gone_before_the_cancel_is_told(house: House) -> None:
    room = await house.room(yolo=True)
    pipe = house.pipe()
    deaf = (
        f"trap '' TERM INT HUP; (trap '' TERM; echo $$ $BASHPID > {pipe.path}; while :; do sleep 1; done) & wait; wait"
    )
    run, children = await room.tool_running(deaf, pipe)
    alive_at_the_end: list[int] = []
    room.watcher.on_event = lambda event: (
        alive_at_the_end.extend(child.pid for child in children if child.is_alive)
        if event.kind == "run_complete"
        else None
    )
    (await room.client.cancel(room.id, room.session)).expect(200)
    assert (await room.ended(run))["cancelled"] is True
    assert alive_at_the_end == []
    await room.works()


async def test_T02_the_shell_exits_and_a_child_keeps_its_pipe(house: House) -> None:
    room = await house.room(yolo=True)
    pipe = house.pipe()
    run, children = await room.tool_running(f"sleep 1000 & echo $! > {pipe.path}; echo done", pipe)
    await room.ended(run, within_s=5.0)
    assert "done" in (await result(room))["content"]
    for child in children:
        await child.gone(within_s=2.0)


async def test_T03_a_daemon_ends_with_its_run(house: House) -> None:
    room = await house.room(yolo=True)
    pipe = house.pipe()
    daemon = f"setsid sh -c '(sleep 1000 > /dev/null 2>&1 & echo $! > {pipe.path})' > /dev/null 2>&1; echo started"
    run, children = await room.tool_running(daemon, pipe)
    await room.ended(run)
    for child in children:  # often none: the daemon was found in the moment of its birth
        await child.gone(within_s=2.0)
    assert "started" in (await result(room))["content"]


async def test_T03_a_daemon_ends_with_its_worker(house: House) -> None:
    room = await house.room(yolo=True)
    pipe = house.pipe()
    daemon = f"setsid sh -c '(sleep 1000 > /dev/null 2>&1 & echo $! > {pipe.path}) &'; sleep 1000"
    run, [child] = await room.tool_running(daemon, pipe)
    await (await room.worker()).kill()
    await child.gone(within_s=2.0)
    await room.ended(run)
    await room.works()


async def test_T04_a_flood_is_drained_and_capped(house: House) -> None:
    room = await house.room(yolo=True)
    worker = await room.worker()
    flood = "echo HEAD; head -c 300000000 /dev/zero | tr '\\0' x; echo; echo TAIL"
    run = await room.prompt(bash(flood))
    await room.ended(run, within_s=30.0)
    found = await result(room)
    assert found["content"].startswith("HEAD")
    assert "TAIL" in found["content"][-200:]
    assert len(found["content"]) < 100_000
    assert peak_rss(worker) < 400_000_000, "the output was kept in memory"


async def test_T04_binary_output_is_text_in_the_end(house: House) -> None:
    room = await house.room(yolo=True)
    run = await room.prompt(bash("head -c 100000 /dev/urandom; printf 'a\\000b\\377c'"))
    await room.ended(run)
    json.dumps(await result(room)).encode()


def bash(command: str) -> str:
    """The directive that has the scripted model run a command."""
    return "/tool bash " + json.dumps({"description": "a test", "command": command})


async def result(room: Room) -> dict[str, Any]:
    """The only tool result of a room."""
    [found] = [part for message in await room.messages() for part in parts_of(message, "tool_result")]
    return found


def peak_rss(process: Process) -> int:
    """The most memory that a process ever had, in bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell the peak")
