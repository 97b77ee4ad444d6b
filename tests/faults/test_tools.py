"""Let the child processes of tools misbehave: none outlives its run, and their output is bounded."""

import json
from typing import Any

import pytest

from tests.support.clients.http_client import parts_of
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.process_usage import peak_bytes
from tests.support.processes import WORKSPACE_MARKER, descendants, marked, state_of, title


async def test_T01_a_child_that_ignores_SIGTERM_ends_before_the_cancelled_run(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    pipe = house.pipe()
    command = (
        f"trap '' TERM INT HUP; (trap '' TERM; echo $$ $BASHPID > {pipe.path}; while :; do sleep 1; done) & wait; wait"
    )
    run, children = await workspace.tool_running(command, pipe)
    alive_at_the_end: list[int] = []
    workspace.watcher.on_event = lambda event: (
        alive_at_the_end.extend(child.pid for child in children if child.is_alive)
        if event.kind == "run_complete"
        else None
    )
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    assert (await workspace.ended(run))["cancelled"] is True
    assert alive_at_the_end == []
    await workspace.works()


async def test_T02_a_child_that_keeps_the_pipe_of_its_shell_ends_with_the_run(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    pipe = house.pipe()
    run, children = await workspace.tool_running(f"sleep 1000 & echo $! > {pipe.path}; echo done", pipe)
    await workspace.ended(run, timeout_s=5.0)
    assert "done" in (await result(workspace))["content"]
    for child in children:
        await child.gone(timeout_s=2.0)


async def test_T02_a_background_job_is_listed_and_ends_with_its_session(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    pipe = house.pipe()
    command = f"sleep 1000 & echo $! $$ > {pipe.path}; echo started; wait"
    call = {"description": "a job", "command": command, "run_in_background": True}
    run = await workspace.prompt("/tool bash " + json.dumps(call))
    pids = [int(word) for word in (await pipe.line()).split()]
    await workspace.ended(run)
    processes = [house.hold(pid) for pid in pids]
    shell_id = metadata_of(await result(workspace))["shell_id"]
    await workspace.ended(
        await workspace.prompt("/tool job_output " + json.dumps({"shell_id": shell_id, "wait": False}))
    )
    listed = (await results(workspace))[-1]["content"]
    assert "Status: running" in listed
    assert "started" in listed
    assert all(process.is_alive for process in processes)
    (await workspace.client.request("DELETE", f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}")).expect(
        200
    )
    for process in processes:
        await process.gone(timeout_s=5.0)


async def test_T03_a_daemon_ends_with_its_run(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    pipe = house.pipe()
    daemon = f"setsid sh -c '(sleep 1000 > /dev/null 2>&1 & echo $! > {pipe.path})' > /dev/null 2>&1; echo started"
    run, children = await workspace.tool_running(daemon, pipe)
    await workspace.ended(run)
    for child in children:  # often empty: the daemon was ended as soon as it started
        await child.gone(timeout_s=2.0)
    assert "started" in (await result(workspace))["content"]


async def test_T03_a_daemon_ends_with_its_worker(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    pipe = house.pipe()
    daemon = f"setsid sh -c '(sleep 1000 > /dev/null 2>&1 & echo $! > {pipe.path}) &'; sleep 1000"
    run, [child] = await workspace.tool_running(daemon, pipe)
    await (await workspace.worker()).kill()
    await child.gone(timeout_s=2.0)
    await workspace.ended(run)
    await workspace.works()


async def test_T04_a_large_output_is_read_whole_and_kept_in_part(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    worker = await workspace.worker()
    flood = "echo HEAD; head -c 300000000 /dev/zero | tr '\\0' x; echo; echo TAIL"
    run = await workspace.prompt(bash(flood))
    await workspace.ended(run, timeout_s=30.0)
    content = (await result(workspace))["content"]
    assert content.startswith("HEAD")
    assert "TAIL" in content[-200:]
    assert len(content) < 100_000
    assert peak_bytes(worker.pid) < 400_000_000, "the output was kept in memory"


async def test_T04_binary_output_is_returned_as_text(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    run = await workspace.prompt(bash("head -c 100000 /dev/urandom; printf 'a\\000b\\377c'"))
    await workspace.ended(run)
    json.dumps(await result(workspace)).encode()


BOMBS = {
    "plain": "b() { [ $1 -gt 0 ] || exec sleep 1000; b $(($1-1)) & b $(($1-1)) & wait; }; b 7",
    "a session for each": "for i in $(seq 200); do setsid sleep 1000 & done; wait",
    "without a parent": "for i in $(seq 200); do (setsid sleep 1000 > /dev/null 2>&1 &) done; sleep 1000",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.house(limits={"tool_processes_max": 60})
async def test_T05_a_fork_bomb_is_stopped_at_the_limit_of_its_workspace(house: ServerHarness, bomb: str) -> None:
    workspace = await house.workspace(yolo=True)
    worker = await workspace.worker()
    run = await workspace.prompt(bash(BOMBS[bomb]))
    await workspace.ended(run, timeout_s=20.0)
    assert "60 may run in this workspace" in (await result(workspace))["content"]
    await eventually(
        lambda: not descendants(worker.pid),
        what="the end of all processes",
        timeout_s=5.0,
        state=lambda: [(pid, state_of(pid), title(pid)) for pid in descendants(worker.pid)],
    )
    assert [pid for pid in marked(WORKSPACE_MARKER, workspace.id) if pid != worker.pid] == []
    assert worker.is_alive
    await workspace.works()


@pytest.mark.house(limits={"tool_processes_max": 60})
async def test_T05_the_limit_counts_all_commands_and_ends_the_largest(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    small = {"description": "x", "command": "for i in $(seq 20); do sleep 1000 & done; wait", "run_in_background": True}
    await workspace.ended(await workspace.prompt("/tool bash " + json.dumps(small)))
    await workspace.ended(
        await workspace.prompt(bash("for i in $(seq 50); do sleep 1000 & done; wait")), timeout_s=20.0
    )
    [first, second] = await results(workspace)
    assert "60 may run in this workspace" in second["content"]
    shell_id = metadata_of(first)["shell_id"]
    await workspace.ended(
        await workspace.prompt("/tool job_output " + json.dumps({"shell_id": shell_id, "wait": False}))
    )
    assert "Status: running" in (await results(workspace))[-1]["content"]
    await workspace.ended(await workspace.prompt("/tool job_kill " + json.dumps({"shell_id": shell_id})))


INTERACTIVE = {
    "input": "read -r line; echo rc=$?",
    "all of its input": "cat; echo rc=$?",
    "a terminal": "read -r line < /dev/tty; echo rc=$?",
    "a terminal's name": "tty; echo rc=$?",
    "a pager": "seq 100000 > long; $PAGER long | tail -n 1; git --paginate help 2>&1 | tail -n 1; echo rc=$?",
    "an editor": "$EDITOR file; echo rc=$?",
    "a Python prompt": "python3 -I -c 'input()' 2>&1 | tail -n 1; echo rc=$?",
    "a password": "python3 -I -c 'import getpass; getpass.getpass()' 2>&1 | tail -n 1; echo rc=$?",
}


@pytest.mark.parametrize("what", INTERACTIVE)
async def test_T06_a_command_that_waits_for_input_fails_fast(house: ServerHarness, what: str) -> None:
    workspace = await house.workspace(yolo=True)
    await workspace.ended(await workspace.prompt(bash(INTERACTIVE[what])), timeout_s=10.0)
    content = (await result(workspace))["content"]
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
    workspace = await house.workspace(yolo=True)
    # Before exec the child still has the shell's own descriptors; its name changes when exec has closed them.
    started = 'sleep 1000 & until read -r name < /proc/$!/comm && [ "$name" = sleep ]; do :; done'
    inspect = f"{started}; ls /proc/$!/fd | sed s/^/fd=/; kill $!; tr '\\0' '\\n' < /proc/$$/environ; env; export -p"
    await workspace.ended(await workspace.prompt(bash(inspect)))
    content = (await result(workspace))["content"]
    assert {line for line in content.splitlines() if line.startswith("fd=")} == {"fd=0", "fd=1", "fd=2"}
    assert "HARMLESS=yes" in content
    assert CANARY not in content
    names = {line.partition("=")[0] for line in content.splitlines()}
    assert not names & {"NOTIFY_SOCKET", "BULKHEAD_LIMITS", "BULKHEAD_FAILPOINTS", "LISTEN_FDS", "BASH_ENV"}
    own = {name for name in names if name.startswith("BULKHEAD_")}
    assert own == {"BULKHEAD_TOOL", "BULKHEAD_WORKSPACE_ID", "BULKHEAD_TEST_HARNESS"}


def bash(command: str) -> str:
    """Return the directive with which the scripted model runs a command."""
    return "/tool bash " + json.dumps({"description": "a test", "command": command})


async def result(workspace: WorkspaceFixture) -> dict[str, Any]:
    """Return the only tool result of a workspace."""
    [only] = await results(workspace)
    return only


async def results(workspace: WorkspaceFixture) -> list[dict[str, Any]]:
    """Return all tool results of a workspace, oldest first."""
    return [part for message in await workspace.messages() for part in parts_of(message, "tool_result")]


def metadata_of(tool_result: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a tool result."""
    metadata = tool_result["metadata"]
    return dict(json.loads(metadata) if isinstance(metadata, str) else metadata)
