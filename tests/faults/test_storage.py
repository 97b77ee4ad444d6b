"""Fill the disk under a workspace, or start a second worker on its data directory (D01, D08)."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.exit_codes import EXIT_LOCKED
from protocol.ids import Generation, WorkspaceId
from protocol.limits import Limits
from protocol.worker_spec import WorkerSpec
from tests.support.harness.raw_supervisor import connect_zygote, exit_status, fork
from tests.support.harness.server import SharedZygote
from tests.support.harness.server_harness import ServerHarness

DISK_BYTES = 4 * 1024 * 1024


@contextmanager
def small_disk(path: Path) -> Iterator["SmallDisk"]:
    """Mount a file system of 4 MiB; skip the test without the privilege to mount."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"needs the privilege to mount a small file system: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class SmallDisk:
    """Fills a small file system and frees the space again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leave no block free."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass  # full

    def free(self) -> None:
        """Free the space."""
        self._filler.unlink()


@pytest.fixture
def disk(short_root: Path) -> Iterator[SmallDisk]:
    root = Path(tempfile.mkdtemp(dir=short_root))
    with small_disk(root / "d") as mounted:
        yield mounted


# `disk` is the first fixture, so that it is unmounted after the server has stopped.
async def test_D01_a_prompt_to_a_full_disk_gets_507_and_is_not_stored(disk: SmallDisk, house: ServerHarness) -> None:
    workspace = await house.workspace(data_dir=str(disk.path / "data"))
    await workspace.works()
    disk.fill()
    refused = await workspace.client.submit(workspace.id, workspace.session, "/say one\n" + "x" * 1_000_000, "r-full")
    assert refused.status == 507, refused.body
    assert refused.code == "storage_full"
    assert "r-full" not in {run.id for run in house.stored(workspace).runs}, "the refused prompt was stored"
    assert len(await workspace.messages()) == 2, "reading must still work"
    degraded = await workspace.watcher.state("degraded")
    assert "full" in degraded["reason"]
    replay = await house.watch(workspace.id, name="replay")
    await replay.close()
    replay.seen.clear()
    await replay.open(f"{house.stored(workspace).log}.0")
    await replay.wait(lambda e: e.kind == "run_complete", what="replayed end")
    disk.free()
    await workspace.watcher.state("ready", skip=len(workspace.watcher.seen))
    await workspace.works()


async def test_D01_a_run_on_a_disk_that_fills_up_fails_and_its_worker_stays(
    disk: SmallDisk, house: ServerHarness
) -> None:
    workspace = await house.workspace(model="openai", data_dir=str(disk.path / "data"))
    run, call = await workspace.streaming("stored before ")
    worker = await workspace.worker()
    disk.fill()
    await call.tokens("x" * 1_500_000)
    await workspace.watcher.state("degraded")
    await call.finish()
    end = await workspace.ended(run)
    assert "torage" in end["error"], end
    row = await workspace.run(run)
    assert (row["outcome"], row["cause"]) == ("failed", "storage"), row
    await call.wait_closed()
    assert (await workspace.worker()).identity == worker.identity, "the full disk ended the worker"
    assert len(await workspace.messages()) == 2
    disk.free()
    await workspace.watcher.state("ready", skip=len(workspace.watcher.seen))
    await workspace.works()


async def test_D08_a_second_worker_on_a_data_directory_exits_at_once(
    house: ServerHarness, shared_zygote: SharedZygote
) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    log = house.root / "second.log"
    spec = WorkerSpec(
        workspace_id=WorkspaceId("second-" + workspace.id),
        generation=Generation(9),
        path=str(workspace.path),
        data_dir=str(workspace.data_dir),
        endpoint=f"ipc://{house.root / 'none'}",
        token="x" * 32,
        log_path=str(log),
        env={"PATH": os.environ["PATH"], "HOME": str(house.root)},
        limits=Limits(),
    )
    zygote = await connect_zygote(shared_zygote.socket_path)
    try:
        second = await fork(zygote, spec)
        async with asyncio.timeout(5.0):  # it does not wait until the lock is free
            assert await exit_status(zygote, second) == EXIT_LOCKED
    finally:
        zygote.close()
    assert f"process {worker.pid}" in log.read_text(), "the log does not name the owner"
    assert worker.is_alive
    await workspace.works()
