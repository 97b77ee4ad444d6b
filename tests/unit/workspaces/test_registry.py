"""The registry finds or creates workspaces: one creation per path at a time, one lasting id per directory."""

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from protocol.api.workspace import CreateWorkspace
from protocol.base.clock import SystemClock
from protocol.errors import Conflict, LimitReached, NotFound, Unavailable
from protocol.ids import ClientId, WorkspaceId
from protocol.limits import Limits
from supervisor.workers.driver import DriverStatus
from supervisor.workspaces.filesystem_probe import BoundedFilesystem
from supervisor.workspaces.identity import resolve
from supervisor.workspaces.recognition import Identity
from supervisor.workspaces.registry import Registry
from supervisor.workspaces.workspace import ManagedWorkspace
from supervisor.workspaces.workspace_table import Registration, WorkspaceTable

A = ClientId("00000000-0000-4000-8000-00000000000a")


class StubWorkspace:
    """Stands in for a workspace and records the clients that claim it, and how often its worker was ended."""

    def __init__(self, registration: Registration) -> None:
        self.registration = registration
        self.env: tuple[str, ...] | None = None
        self.claims: list[ClientId] = []
        self.retired: list[ClientId] = []
        self.closed = ""
        self.relocated = 0
        self.is_used = False
        self.driver = StubDriver()

    def claim(self, client_id: ClientId) -> None:
        self.claims.append(client_id)

    def retire(self, client_id: ClientId) -> None:
        self.retired.append(client_id)

    async def close(self, reason: str) -> None:
        self.closed = reason

    async def relocate(self) -> None:
        self.relocated += 1


class StubDriver:
    """Stands in for the driver of a worker that sleeps."""

    def status(self) -> DriverStatus:
        return DriverStatus("asleep", "", None, 0, None, 0, None)


@asynccontextmanager
async def registry_at(state: Path, **limits: Any) -> AsyncIterator[Registry]:
    registry = Registry(
        table=WorkspaceTable(state / "roster.db"),
        filesystem=BoundedFilesystem(timeout_s=limits.get("disk_answer_s", 5.0)),
        make_workspace=lambda registration: cast(ManagedWorkspace, StubWorkspace(registration)),
        state_dir=state,
        limits=Limits(**limits),
        clock=SystemClock(),
        random=random.Random(5),
        log=logging.getLogger("bulkhead.test"),
    )
    await registry.load()
    registry.open()
    try:
        yield registry
    finally:
        await registry.close()


async def test_the_same_directory_is_the_same_workspace(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "link").symlink_to("p")
    async with registry_at(tmp_path) as registry:
        first = await registry.create(CreateWorkspace(path=str(tmp_path / "link"), yolo=True), A)
        again = await registry.create(CreateWorkspace(path=str(tmp_path / "p")), A)
        assert first is again
        assert first.registration.asked_path == str(tmp_path / "link")
        assert first.registration.skip_permissions  # the first creator's flags win
        assert registry.find(first.registration.id) is first


async def test_the_id_of_a_workspace_survives_a_restart(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    async with registry_at(tmp_path) as registry:
        before = (await registry.create(CreateWorkspace(path=str(tmp_path / "p")), A)).registration
    async with registry_at(tmp_path) as registry:
        assert registry.registrations() == [before]
        assert registry.touched() == []
        assert (await registry.create(CreateWorkspace(path=str(tmp_path / "p")), A)).registration == before


async def test_concurrent_creates_make_one_workspace(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    async with registry_at(tmp_path) as registry:
        request = CreateWorkspace(path=str(tmp_path / "p"))
        made = await asyncio.gather(*(registry.create(request, A) for _ in range(10)))
        assert len({id(workspace) for workspace in made}) == 1
        assert len(registry.registrations()) == 1


async def test_a_cancelled_caller_does_not_cancel_the_creation(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    async with registry_at(tmp_path) as registry:
        request = CreateWorkspace(path=str(tmp_path / "p"))
        impatient = asyncio.ensure_future(registry.create(request, A))
        patient = asyncio.ensure_future(registry.create(request, A))
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await patient).registration.identity.path == str(tmp_path / "p")


async def test_a_retired_client_cannot_create_again(tmp_path: Path) -> None:
    async with registry_at(tmp_path) as registry:
        workspace = await registry.create(CreateWorkspace(path=str(tmp_path)), A)
        registry.retire(A)
        registry.retire(A)
        assert cast(StubWorkspace, workspace).retired == [A, A]
        with pytest.raises(Conflict) as refused:
            await registry.create(CreateWorkspace(path=str(tmp_path)), A)
        assert refused.value.code == "client_retired"


async def test_a_create_with_other_channels_is_refused(tmp_path: Path) -> None:
    async with registry_at(tmp_path) as registry:
        await registry.create(CreateWorkspace(path=str(tmp_path), channels=["a", "b"]), A)
        await registry.create(CreateWorkspace(path=str(tmp_path), channels=["a", "b"]), A)
        with pytest.raises(Conflict, match="channels"):
            await registry.create(CreateWorkspace(path=str(tmp_path), channels=["b", "a"]), A)


async def test_X11_registrations_are_bounded(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    async with registry_at(tmp_path, workspaces_max=1) as registry:
        await registry.create(CreateWorkspace(path=str(tmp_path / "a")), A)
        with pytest.raises(LimitReached) as refused:
            await registry.create(CreateWorkspace(path=str(tmp_path / "b")), A)
        assert refused.value.code == "too_many_workspaces"
        await registry.create(CreateWorkspace(path=str(tmp_path / "a")), A)


async def test_X11_a_registration_whose_folder_is_gone_gives_its_place_back(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    async with registry_at(tmp_path, workspaces_max=2) as registry:
        kept = await registry.create(CreateWorkspace(path=str(tmp_path / "a")), A)
        gone = await registry.create(CreateWorkspace(path=str(tmp_path / "b")), A)
        (tmp_path / "b").rename(tmp_path / "away")
        cast(StubWorkspace, gone).is_used = True
        with pytest.raises(LimitReached):
            await registry.create(CreateWorkspace(path=str(tmp_path / "c")), A)
        cast(StubWorkspace, gone).is_used = False
        new = await registry.create(CreateWorkspace(path=str(tmp_path / "c")), A)
        assert {one.id for one in registry.registrations()} == {kept.registration.id, new.registration.id}
        assert cast(StubWorkspace, gone).closed


async def test_an_unknown_id_is_refused(tmp_path: Path) -> None:
    async with registry_at(tmp_path) as registry:
        with pytest.raises(NotFound) as refused:
            registry.find("unknown")
        assert refused.value.code == "workspace_unknown"


async def test_a_file_system_that_does_not_respond_delays_no_other_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, alive, recovered = tmp_path / "dead", tmp_path / "alive", threading.Event()
    resolved: list[str] = []

    def resolve_slowly(path: str, env: Sequence[str]) -> Identity:
        resolved.append(path)
        if path == str(dead):
            recovered.wait()
        return resolve(path, env)

    monkeypatch.setattr("supervisor.workspaces.folder_probe.resolve", resolve_slowly)

    try:
        dead.mkdir()
        alive.mkdir()
        async with registry_at(tmp_path, disk_answer_s=0.05) as registry:
            for _ in range(3):
                with pytest.raises(Unavailable, match="does not respond"):
                    await registry.create(CreateWorkspace(path=str(dead)), A)
                await registry.create(CreateWorkspace(path=str(alive)), A)
            assert resolved.count(str(dead)) == 1, "each further thread would hang as well"
            recovered.set()
            async with asyncio.timeout(10):
                while True:
                    try:
                        await registry.create(CreateWorkspace(path=str(dead)), A)
                        break
                    except Unavailable:
                        await asyncio.sleep(0.01)
    finally:
        recovered.set()


async def test_requests_wait_for_the_start_up_to_a_deadline(tmp_path: Path) -> None:
    registry = Registry(
        table=WorkspaceTable(tmp_path / "roster.db"),
        filesystem=BoundedFilesystem(timeout_s=5.0),
        make_workspace=lambda registration: cast(ManagedWorkspace, StubWorkspace(registration)),
        state_dir=tmp_path,
        limits=Limits(wake_deadline_s=0.01),
        clock=SystemClock(),
        random=random.Random(5),
        log=logging.getLogger("bulkhead.test"),
    )
    with pytest.raises(Unavailable):
        await registry.wait_open()
    registry.open()
    await registry.wait_open()
    await registry.close()


async def test_a_lost_registration_is_restored_under_its_old_id(tmp_path: Path) -> None:
    async with registry_at(tmp_path) as registry:
        workspace = await registry.restore(WorkspaceId("old-id"), str(tmp_path))
        assert workspace.registration.id == "old-id"
        assert registry.find("old-id") is workspace
