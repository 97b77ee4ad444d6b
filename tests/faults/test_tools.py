"""Fault matrix 11: what a tool's child may do; nothing of it outlives its run, and its output is bounded."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients.http_client import parts_of
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.processes import WORKSPACE_MARKER, Process, descendants, marked, state_of, title


async def test_T01_a_child_that_ignores_SIGTERM_is_gone_before_the_cancel_is_told(house: ServerHarness) -> None:
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


async def test_T02_the_shell_exits_and_a_child_keeps_its_pipe(house: ServerHarness) -> None:
    room = await house.room(yolo=True)
    pipe = house.pipe()
    run, children = await room.tool_running(f"sleep 1000 & echo $! > {pipe.path}; echo done", pipe)
    await room.ended(run, timeout_s=5.0)
    assert "done" in (await result(room))["content"]
    for child in children:
        await child.gone(timeout_s=2.0)


async def test_T02_what_goes_on_in_the_background_is_listed_and_ends_with_its_session(house: ServerHarness) -> None:
    room = await house.room(yolo=True)
    pipe = house.pipe()
    command = f"sleep 1000 & echo $! $$ > {pipe.path}; echo begun; wait"
    call = {"description": "a job", "command": command, "run_in_background": True}
    run = await room.prompt("/tool bash " + json.dumps(call))
    pids = [int(word) for word in (await pipe.line()).split()]
    await room.ended(run)
    left = [house.hold(pid) for pid in pids]
    shell_id = metadata_of(await result(room))["shell_id"]
    await room.ended(await room.prompt("/tool job_output " + json.dumps({"shell_id": shell_id, "wait": False})))
    listed = (await results(room))[-1]["content"]
    assert "Status: running" in listed
    assert "begun" in listed
    assert all(process.is_alive for process in left)
    (await room.client.request("DELETE", f"/v1/workspaces/{room.id}/sessions/{room.session}")).expect(200)
    for process in left:
        await process.gone(timeout_s=5.0)


async def test_T03_a_daemon_ends_with_its_run(house: ServerHarness) -> None:
    room = await house.room(yolo=True)
    pipe = house.pipe()
    daemon = f"setsid sh -c '(sleep 1000 > /dev/null 2>&1 & echo $! > {pipe.path})' > /dev/null 2>&1; echo started"
    run, children = await room.tool_running(daemon, pipe)
    await room.ended(run)
    for child in children:  # often none: the daemon was found in the moment of its birth
        await child.gone(timeout_s=2.0)
    assert "started" in (await result(room))["content"]


async def test_T03_a_daemon_ends_with_its_worker(house: ServerHarness) -> None:
    room = await house.room(yolo=True)
    pipe = house.pipe()
    daemon = f"setsid sh -c '(sleep 1000 > /dev/null 2>&1 & echo $! > {pipe.path}) &'; sleep 1000"
    run, [child] = await room.tool_running(daemon, pipe)
    await (await room.worker()).kill()
    await child.gone(timeout_s=2.0)
    await room.ended(run)
    await room.works()


async def test_T04_a_flood_is_drained_and_capped(house: ServerHarness) -> None:
    room = await house.room(yolo=True)
    worker = await room.worker()
    flood = "echo HEAD; head -c 300000000 /dev/zero | tr '\\0' x; echo; echo TAIL"
    run = await room.prompt(bash(flood))
    await room.ended(run, timeout_s=30.0)
    found = await result(room)
    assert found["content"].startswith("HEAD")
    assert "TAIL" in found["content"][-200:]
    assert len(found["content"]) < 100_000
    assert peak_rss(worker) < 400_000_000, "the output was kept in memory"


async def test_T04_binary_output_is_text_in_the_end(house: ServerHarness) -> None:
    room = await house.room(yolo=True)
    run = await room.prompt(bash("head -c 100000 /dev/urandom; printf 'a\\000b\\377c'"))
    await room.ended(run)
    json.dumps(await result(room)).encode()


BOMBS = {
    "plain": "b() { [ $1 -gt 0 ] || exec sleep 1000; b $(($1-1)) & b $(($1-1)) & wait; }; b 7",
    "a session for each": "for i in $(seq 200); do setsid sleep 1000 & done; wait",
    "without a parent": "for i in $(seq 200); do (setsid sleep 1000 > /dev/null 2>&1 &) done; sleep 1000",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.house(limits={"tool_processes_max": 60})
async def test_T05_a_fork_bomb_is_stopped_at_the_limit_of_its_workspace(house: ServerHarness, bomb: str) -> None:
    room = await house.room(yolo=True)
    worker = await room.worker()
    run = await room.prompt(bash(BOMBS[bomb]))
    await room.ended(run, timeout_s=20.0)
    assert "60 may run in this workspace" in (await result(room))["content"]
    await eventually(
        lambda: not descendants(worker.pid),
        what="the end of all",
        timeout_s=5.0,
        state=lambda: [(pid, state_of(pid), title(pid)) for pid in descendants(worker.pid)],
    )
    assert [pid for pid in marked(WORKSPACE_MARKER, room.id) if pid != worker.pid] == []
    assert worker.is_alive
    await room.works()


@pytest.mark.house(limits={"tool_processes_max": 60})
async def test_T05_the_limit_is_of_all_commands_together_and_takes_the_largest(house: ServerHarness) -> None:
    room = await house.room(yolo=True)
    small = {"description": "x", "command": "for i in $(seq 20); do sleep 1000 & done; wait", "run_in_background": True}
    await room.ended(await room.prompt("/tool bash " + json.dumps(small)))
    await room.ended(await room.prompt(bash("for i in $(seq 50); do sleep 1000 & done; wait")), timeout_s=20.0)
    [first, second] = await results(room)
    assert "60 may run in this workspace" in second["content"]
    shell_id = metadata_of(first)["shell_id"]
    await room.ended(await room.prompt("/tool job_output " + json.dumps({"shell_id": shell_id, "wait": False})))
    assert "Status: running" in (await results(room))[-1]["content"]
    await room.ended(await room.prompt("/tool job_kill " + json.dumps({"shell_id": shell_id})))


ASKING = {
    "input": "read -r line; echo rc=$?",
    "all of its input": "cat; echo rc=$?",
    "a terminal": "read -r line < /dev/tty; echo rc=$?",
    "a terminal's name": "tty; echo rc=$?",
    "a pager": "seq 100000 > long; $PAGER long | tail -n 1; git --paginate help 2>&1 | tail -n 1; echo rc=$?",
    "an editor": "$EDITOR file; echo rc=$?",
    "a Python prompt": "python3 -I -c 'input()' 2>&1 | tail -n 1; echo rc=$?",
    "a password": "python3 -I -c 'import getpass; getpass.getpass()' 2>&1 | tail -n 1; echo rc=$?",
}


@pytest.mark.parametrize("what", ASKING)
async def test_T06_who_waits_for_a_person_fails_fast(house: ServerHarness, what: str) -> None:
    room = await house.room(yolo=True)
    await room.ended(await room.prompt(bash(ASKING[what])), timeout_s=10.0)
    content = (await result(room))["content"]
    assert "rc=" in content
    if what in ("input", "a terminal", "a terminal's name", "an editor"):
        assert "rc=0" not in content


CANARY = "canary-7c1f5e"


@pytest.mark.house(
    env={
        "COMPANY_API_KEY": f"{CANARY}-key",
        "BULKHEAD_TOKEN": f"{CANARY}-token",
        "MY_SECRET": f"{CANARY}-secret",
        "DB_PASSWORD": f"{CANARY}-password",
        "HARMLESS": "yes",
    }
)
async def test_T08_a_command_gets_three_descriptors_and_no_secret(house: ServerHarness) -> None:
    room = await house.room(yolo=True)
    # Between fork and exec the child still has the shell's own descriptors; it has its name when exec has closed them.
    started = 'sleep 1000 & until read -r name < /proc/$!/comm && [ "$name" = sleep ]; do :; done'
    look = f"{started}; ls /proc/$!/fd | sed s/^/fd=/; kill $!; tr '\\0' '\\n' < /proc/$$/environ; env; export -p"
    await room.ended(await room.prompt(bash(look)))
    content = (await result(room))["content"]
    assert {line for line in content.splitlines() if line.startswith("fd=")} == {"fd=0", "fd=1", "fd=2"}
    assert "HARMLESS=yes" in content
    assert CANARY not in content
    names = {line.partition("=")[0] for line in content.splitlines()}
    assert not names & {"NOTIFY_SOCKET", "BULKHEAD_LIMITS", "BULKHEAD_FAILPOINTS", "LISTEN_FDS", "BASH_ENV"}
    own = {name for name in names if name.startswith("BULKHEAD_")}
    assert own == {"BULKHEAD_TOOL", "BULKHEAD_WORKSPACE_ID", "BULKHEAD_TEST_HOUSE"}


def bash(command: str) -> str:
    """The directive that has the scripted model run a command."""
    return "/tool bash " + json.dumps({"description": "a test", "command": command})


async def result(room: WorkspaceFixture) -> dict[str, Any]:
    """The only tool result of a room."""
    [found] = await results(room)
    return found


async def results(room: WorkspaceFixture) -> list[dict[str, Any]]:
    """All of them, oldest first."""
    return [part for message in await room.messages() for part in parts_of(message, "tool_result")]


def metadata_of(found: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a tool result."""
    metadata = found["metadata"]
    return dict(json.loads(metadata) if isinstance(metadata, str) else metadata)


def peak_rss(process: Process) -> int:
    """The most memory that a process ever had, in bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell the peak")
