"""Test the unit files on a private systemd: start, prompt, crash of the supervisor, restart, stop (Y04, S01, S07)."""

import tempfile
from pathlib import Path

import pytest

from tests.support.checks.history import ClientLog, read_stored
from tests.support.checks.history_checks import check_history
from tests.support.clients.http_client import Client, ConnectionLost
from tests.support.clients.stream_reader import StreamReader
from tests.support.eventually import eventually
from tests.support.harness.private_systemd import PrivateSystemd, outer_process
from tests.support.processes import Identity


@pytest.fixture
def manager(short_root: Path) -> PrivateSystemd:
    return PrivateSystemd(Path(tempfile.mkdtemp(dir=short_root)))


async def test_S01_S07_workers_survive_a_supervisor_crash_and_restart_under_systemd(
    manager: PrivateSystemd, short_root: Path
) -> None:
    path = Path(tempfile.mkdtemp(dir=short_root))
    (path / "w").mkdir()
    await manager.systemctl("start", "bulkhead.target")
    await eventually(lambda: is_active(manager, "bulkhead.service"), timeout_s=15.0, what="an active service")
    client_log = ClientLog()
    client = Client(manager.run / "bulkhead.sock", client_log)
    workspace = await client.create(path / "w")
    session = await client.create_session(workspace["id"])
    watcher = StreamReader(client, workspace["id"], name="client")
    watcher.resumes = True
    async with watcher:
        run = await client.prompt(workspace["id"], session, "/tokens 1000000 20")
        await watcher.text(session, "t1")
        worker = outer_process(manager, await inner_pid(client, workspace["id"]))
        supervisor = await manager.show("bulkhead.service", "MainPID")
        try:
            assert "bulkhead-workers.service" in cgroup_of(worker.pid), "the worker is in the supervisor's kill set"

            await manager.kill_main("bulkhead.service")
            await supervisor_replaced(manager, supervisor)
            assert await manager.show("bulkhead.service", "NRestarts") == "1"
            assert await current_worker(manager, client, workspace["id"]) == worker.identity

            supervisor = await manager.show("bulkhead.service", "MainPID")
            await manager.systemctl("restart", "bulkhead.service")
            await supervisor_replaced(manager, supervisor)
            assert await current_worker(manager, client, workspace["id"]) == worker.identity
            skip = len(watcher.seen)
            await watcher.wait(lambda e: e.kind == "message", what="token after the restart", skip=skip)

            zygote = await manager.show("bulkhead-workers.service", "MainPID")
            await manager.kill_main("bulkhead-workers.service")
            await eventually(
                lambda: has_new_main(manager, "bulkhead-workers.service", zygote), timeout_s=15.0, what="a new zygote"
            )
            assert worker.is_alive, "the end of the zygote ended its workers (S15)"

            watcher.resumes = False
            await manager.systemctl("stop", "bulkhead.target")
            await worker.gone(timeout_s=15.0)
            await eventually(
                lambda: manager.processes() == [], what="the end of all processes", state=manager.processes
            )
            for unit in ("bulkhead.service", "bulkhead-workers.service", "bulkhead.socket"):
                await eventually(
                    lambda unit=unit: has_stopped(manager, unit), what=f"{unit} is inactive after a clean end"
                )
        finally:
            worker.close()
    stored = read_stored(workspace["id"], path / "w" / ".bulkhead")
    assert [(row.id, row.outcome) for row in stored.runs] == [(run, "cancelled")]
    assert check_history(client_log, [stored]) == []


async def current_worker(manager: PrivateSystemd, client: Client, workspace: str) -> Identity:
    """Return the identity of the worker that serves this workspace."""
    process = outer_process(manager, await inner_pid(client, workspace))
    process.close()
    return process.identity


async def is_active(manager: PrivateSystemd, unit: str) -> bool:
    return await manager.show(unit, "ActiveState") == "active"


async def has_stopped(manager: PrivateSystemd, unit: str) -> bool:
    state = [await manager.show(unit, name) for name in ("ActiveState", "Result")]
    return state == ["inactive", "success"]


async def has_new_main(manager: PrivateSystemd, unit: str, old: str) -> bool:
    return await is_active(manager, unit) and await manager.show(unit, "MainPID") not in ("0", old)


async def supervisor_replaced(manager: PrivateSystemd, old: str) -> None:
    """Wait until the supervisor's unit has another main process that is active."""
    await eventually(lambda: has_new_main(manager, "bulkhead.service", old), timeout_s=15.0, what="a new supervisor")


async def inner_pid(client: Client, workspace: str) -> int:
    """Wait until the worker is ready; return its pid as seen inside the service."""

    async def look() -> int:
        try:
            rows = (await client.get("/v1/workers")).expect(200).json()
        except ConnectionLost:
            return 0
        row = next(row for row in rows if row["id"] == workspace)
        return int(row["pid"] or 0) if row["state"] == "ready" else 0

    return await eventually(look, what="a ready worker")


def cgroup_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()
