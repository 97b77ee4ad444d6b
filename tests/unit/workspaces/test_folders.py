"""Folders that are renamed, moved, copied, restored, linked and made again keep or get the right workspace (H06)."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from protocol.api.workspace import CreateWorkspace
from protocol.errors import BadInput, Conflict, NotFound
from protocol.ids import WorkspaceId
from protocol.workspace_mark import MARK_NAME, read_mark
from supervisor.workspaces.registry import Registry
from supervisor.workspaces.workspace_table import Registration
from tests.unit.workspaces.test_registry import A, StubWorkspace, registry_at

UNUSED = "00000000-0000-4000-8000-00000000ffff"


async def use(registry: Registry, path: Path, **more: str) -> Registration:
    """Use a directory as a client does; its worker leaves a database."""
    workspace = await registry.create(CreateWorkspace(path=str(path), **more), A)
    registration = workspace.registration
    (Path(registration.data_dir) / "workspace.db").touch()
    return registration


def mark_of(path: Path) -> Path:
    return path / ".bulkhead" / MARK_NAME


async def test_a_renamed_folder_is_the_same_workspace(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a" / "deep")
        workspace = registry.find(before.id)
        (tmp_path / "a").rename(tmp_path / "b")  # the folder above it
        after = await use(registry, tmp_path / "b" / "deep")
        assert after.id == before.id
        assert after.data_dir == str(tmp_path / "b" / "deep" / ".bulkhead")
        assert after.asked_path == after.identity.path == str(tmp_path / "b" / "deep")
        assert registry.find(before.id) is workspace, "its streams stay"
        assert cast(StubWorkspace, workspace).relocated == 1
    async with registry_at(tmp_path) as registry:
        assert registry.registrations() == [after]


async def test_a_folder_that_was_moved_to_another_file_system_is_the_same_workspace(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a")
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        shutil.rmtree(tmp_path / "a")
        assert (await use(registry, tmp_path / "b")).id == before.id


async def test_a_copy_is_a_new_workspace_whichever_is_used_first(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with registry_at(tmp_path) as registry:
        original = await use(registry, tmp_path / "a")
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        made = await use(registry, tmp_path / "b")
        assert made.id != original.id
        assert mark_of(tmp_path / "b").read_text().strip() == made.id
        assert (await use(registry, tmp_path / "a")).id == original.id
        assert (await use(registry, tmp_path / "b")).id == made.id
        (tmp_path / "a").rename(tmp_path / "c")
        shutil.copytree(tmp_path / "c", tmp_path / "a")  # a copy in the place of the moved original
        assert (await use(registry, tmp_path / "c")).id == original.id
        assert (await use(registry, tmp_path / "a")).id not in (original.id, made.id)


async def test_two_copies_of_a_folder_that_is_gone_do_not_get_one_workspace(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a")
        for name in "bcd":
            shutil.copytree(tmp_path / "a", tmp_path / name)
        shutil.rmtree(tmp_path / "a")
        found = await asyncio.gather(*(use(registry, tmp_path / name) for name in "bcd"))
        assert len({one.id for one in found}) == 3
        assert before.id in {one.id for one in found}


async def test_a_restored_folder_is_the_same_workspace(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a")
        shutil.copytree(tmp_path / "a", tmp_path / "backup")
        shutil.rmtree(tmp_path / "a")
        shutil.copytree(tmp_path / "backup", tmp_path / "a")
        await registry.check_folder(before.id)  # before a worker starts, without a client that names the path
        after = registry.registration(before.id)
        assert after.identity.inode == (tmp_path / "a").stat().st_ino
        assert (await use(registry, tmp_path / "a")) == after


async def test_a_folder_that_was_made_again_is_a_new_workspace(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a")
        workspace = registry.find(before.id)
        (tmp_path / "a").rename(tmp_path / "away")
        (tmp_path / "a").mkdir()
        with pytest.raises(Conflict, match="bulkhead run") as refused:
            await registry.check_folder(before.id)
        assert refused.value.code == "workspace_moved"
        assert "DELETE" not in refused.value.message
        after = await use(registry, tmp_path / "a")
        assert after.id != before.id
        assert cast(StubWorkspace, workspace).closed
        with pytest.raises(NotFound):
            registry.find(before.id)
        assert (await use(registry, tmp_path / "away")).id == before.id, "the old folder has its id"


async def test_a_folder_without_its_data_directory_is_the_same_workspace(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a")
        shutil.rmtree(tmp_path / "a" / ".bulkhead")
        assert (await use(registry, tmp_path / "a")).id == before.id
        assert mark_of(tmp_path / "a").read_text().strip() == before.id
        shutil.rmtree(tmp_path / "a" / ".bulkhead")
        await registry.check_folder(before.id)
        assert mark_of(tmp_path / "a").read_text().strip() == before.id


async def test_a_missing_folder_is_refused_with_the_commands_that_help(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a")
        shutil.rmtree(tmp_path / "a")
        with pytest.raises(Conflict, match=r"missing.*bulkhead forget"):
            await registry.check_folder(before.id)
        assert not (tmp_path / "a").exists()


async def test_a_link_in_the_place_of_a_moved_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "other").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "a").symlink_to("b")
        await registry.check_folder(before.id)
        assert registry.registration(before.id).identity.path == str(tmp_path / "b")
        assert (await use(registry, tmp_path / "a")).id == before.id
        (tmp_path / "b").rename(tmp_path / "c")
        (tmp_path / "b").symlink_to("other")  # a link to something else
        with pytest.raises(Conflict, match="missing"):
            await registry.check_folder(before.id)


async def test_two_names_of_one_folder_are_one_workspace(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    async with registry_at(tmp_path) as registry:
        first, second = await asyncio.gather(use(registry, tmp_path / "link"), use(registry, tmp_path / "real"))
        assert first == second


async def test_the_ids_come_back_from_the_folders_when_the_list_is_lost(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with registry_at(tmp_path) as registry:
        ids = [(await use(registry, tmp_path / name)).id for name in "ab"]
    (tmp_path / "roster.db").unlink()
    async with registry_at(tmp_path) as registry:
        assert [(await use(registry, tmp_path / name)).id for name in "ab"] == ids


async def test_a_data_directory_outside_keeps_its_workspace(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    (tmp_path / "a").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a", data_dir=data)
        (tmp_path / "a").rename(tmp_path / "b")
        moved = await use(registry, tmp_path / "b")  # without naming the data directory
        assert (moved.id, moved.data_dir) == (before.id, data)
        shutil.rmtree(tmp_path / "b")
        (tmp_path / "b").mkdir()
        await registry.check_folder(before.id)
        assert (await use(registry, tmp_path / "b")).id == before.id
    (tmp_path / "roster.db").unlink()
    async with registry_at(tmp_path) as registry:
        assert (await use(registry, tmp_path / "b", data_dir=data)).id == before.id


async def test_two_folders_cannot_have_one_data_directory(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    data = str(tmp_path / "data")
    async with registry_at(tmp_path) as registry:
        first = await use(registry, tmp_path / "a", data_dir=data)
        with pytest.raises(Conflict, match="belongs to the workspace") as refused:
            await use(registry, tmp_path / "b", data_dir=data)
        assert first.identity.path in refused.value.message
        (tmp_path / "c" / ".bulkhead").symlink_to(data)
        with pytest.raises(Conflict, match="belongs to the workspace"):
            await use(registry, tmp_path / "c")
        assert read_mark(Path(data)) == first.id


def foreign(mark: Path, workspace_id: str) -> None:
    mark.write_text(workspace_id)
    os.chown(mark, 65534, 65534)


def linked(mark: Path, workspace_id: str) -> None:
    (mark.parent / "elsewhere").write_text(workspace_id)
    mark.symlink_to("elsewhere")


BAD_MARKS: dict[str, Callable[[Path, str], object]] = {
    "empty": lambda mark, _: mark.touch(),
    "no id": lambda mark, _: mark.write_text("../../etc"),
    "more than an id": lambda mark, workspace_id: mark.write_text(workspace_id * 3),
    "no text": lambda mark, _: mark.write_bytes(b"\xff" * 36),
    "a link": linked,
    "a directory": lambda mark, _: mark.mkdir(),
    "a pipe": lambda mark, _: os.mkfifo(mark),
    "of another user": foreign,
}


@pytest.mark.parametrize("kind", BAD_MARKS)
async def test_H06_a_mark_that_cannot_be_ours_counts_for_nothing(tmp_path: Path, kind: str) -> None:
    if kind == "of another user" and os.getuid() != 0:
        pytest.skip("only root can give a file away")
    (tmp_path / "b" / ".bulkhead").mkdir(parents=True)
    BAD_MARKS[kind](mark_of(tmp_path / "b"), UNUSED)
    async with registry_at(tmp_path) as registry:
        found = await use(registry, tmp_path / "b")
        assert found.id != UNUSED
        assert (await use(registry, tmp_path / "b")).id == found.id


async def test_H06_an_id_written_into_another_folder_takes_nothing_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / ".bulkhead").mkdir(parents=True)
    async with registry_at(tmp_path) as registry:
        victim = await use(registry, tmp_path / "a")
        mark_of(tmp_path / "b").write_text(victim.id)
        assert (await use(registry, tmp_path / "b")).id != victim.id
        assert (await use(registry, tmp_path / "a")) == victim


async def test_a_folder_that_cannot_be_marked_is_known_by_its_inode(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".bulkhead").touch()  # a file in the way
    async with registry_at(tmp_path) as registry:
        first = await registry.create(CreateWorkspace(path=str(tmp_path / "a")), A)
        assert (await registry.create(CreateWorkspace(path=str(tmp_path / "a")), A)) is first


async def test_adopting_moves_a_workspace_whose_folder_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a")
        with pytest.raises(Conflict, match="still at"):
            await registry.adopt(before.id, str(tmp_path / "b"))
        shutil.rmtree(tmp_path / "a")
        await registry.adopt(before.id, str(tmp_path / "b"))
        after = registry.registration(before.id)
        assert (after.identity.path, after.data_dir) == (str(tmp_path / "b"), str(tmp_path / "b" / ".bulkhead"))
        assert read_mark(tmp_path / "b" / ".bulkhead") == before.id
        assert (await use(registry, tmp_path / "b")) == after
        with pytest.raises(NotFound):
            await registry.adopt(WorkspaceId("unknown"), str(tmp_path / "b"))
        with pytest.raises(BadInput):
            await registry.adopt(before.id, str(tmp_path / "nowhere"))


async def test_adopting_never_takes_the_folder_of_another_workspace(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with registry_at(tmp_path) as registry:
        gone, other = await use(registry, tmp_path / "a"), await use(registry, tmp_path / "b")
        shutil.rmtree(tmp_path / "a")
        with pytest.raises(Conflict, match=f"bulkhead forget {other.id[:8]}"):
            await registry.adopt(gone.id, str(tmp_path / "b"))
        await registry.remove(other.id)
        await registry.adopt(gone.id, str(tmp_path / "b"))
        assert [one.id for one in registry.registrations()] == [gone.id]


async def test_adopting_the_registered_path_accepts_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "away")
        (tmp_path / "a").mkdir()
        with pytest.raises(Conflict):
            await registry.check_folder(before.id)
        await registry.adopt(before.id, str(tmp_path / "a"))
        await registry.check_folder(before.id)


async def test_a_folder_that_was_forgotten_is_a_new_workspace_with_the_same_data(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with registry_at(tmp_path) as registry:
        before = await use(registry, tmp_path / "a")
        await registry.remove(before.id)
        assert registry.registrations() == []
        after = await use(registry, tmp_path / "a")
        assert after.id != before.id
        assert after.data_dir == before.data_dir
