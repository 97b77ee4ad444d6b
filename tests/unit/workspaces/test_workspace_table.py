"""The stored table of workspaces survives the server."""

import shutil
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.ids import WorkspaceId
from supervisor.workspaces.recognition import Identity
from supervisor.workspaces.workspace_table import Registration, WorkspaceTable, WorkspaceTableFailed

ONE = Registration(
    id=WorkspaceId("w1"),
    identity=Identity("/home/ü/project", 2**64 - 1, 2**60 + 7),
    asked_path="/link",
    data_dir="/home/ü/project/.bulkhead",
    skip_permissions=True,
    channels=("a", "b"),
    registered_at_ms=5,
)


async def test_rows_survive_a_restart(tmp_path: Path) -> None:
    table = WorkspaceTable(tmp_path / "roster.db")
    assert await table.open() == []
    await table.put(ONE)
    await table.close()
    reopened = WorkspaceTable(tmp_path / "roster.db")
    assert await reopened.open() == [ONE]
    await reopened.remove(ONE.id)
    await reopened.close()
    third = WorkspaceTable(tmp_path / "roster.db")
    assert await third.open() == []
    await third.close()
    assert stat.S_IMODE((tmp_path / "roster.db").stat().st_mode) == 0o600


async def test_one_path_is_registered_once(tmp_path: Path) -> None:
    table = WorkspaceTable(tmp_path / "roster.db")
    await table.open()
    await table.put(ONE)
    with pytest.raises(WorkspaceTableFailed):
        await table.put(Registration(id=WorkspaceId("w2"), identity=ONE.identity, asked_path="/", data_dir="/"))
    await table.remove(ONE.id)  # the failed write left nothing behind
    await table.close()


async def test_a_row_is_replaced_together_with_the_end_of_another(tmp_path: Path) -> None:
    table = WorkspaceTable(tmp_path / "roster.db")
    await table.open()
    await table.put(ONE)
    two = replace(ONE, id=WorkspaceId("w2"), identity=Identity("/home/new", 1, 2))
    await table.put(two)
    moved = replace(two, identity=ONE.identity)
    await table.put(moved, replaces=ONE.id)
    await table.close()
    assert await rows_of(tmp_path) == [moved]


async def test_the_rows_of_version_1_are_kept(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "roster.db") as connection:
        connection.execute(
            "create table registrations (id text primary key, path text not null unique, asked_path text not null,"
            " device integer not null, inode integer not null, data_dir text not null,"
            " skip_permissions integer not null, debug integer not null, channels text not null,"
            " registered_at_ms integer not null) strict"
        )
        row = ("w1", "/p", "/asked", 2049, 77, "/p/.bulkhead", 1, 0, '["a"]', 5)
        connection.execute(f"insert into registrations values ({','.join('?' * len(row))})", row)
        connection.execute("pragma user_version = 1")
    connection.close()

    [found] = await rows_of(tmp_path)
    assert found == Registration(
        id=WorkspaceId("w1"),
        identity=Identity("/p", 77, 0),
        asked_path="/asked",
        data_dir="/p/.bulkhead",
        skip_permissions=True,
        channels=("a",),
        registered_at_ms=5,
    )
    assert await rows_of(tmp_path) == [found]


@pytest.mark.parametrize("removed", [("",), ("", "-wal", "-shm"), ("folder",)])
async def test_a_file_that_was_removed_is_written_again(tmp_path: Path, removed: tuple[str, ...]) -> None:
    state = tmp_path / "state"
    state.mkdir()
    table = WorkspaceTable(state / "roster.db")
    await table.open()
    await table.put(ONE)
    if removed == ("folder",):
        shutil.rmtree(state)
    else:
        for suffix in removed:
            (state / f"roster.db{suffix}").unlink(missing_ok=True)
    two = replace(ONE, id=WorkspaceId("w2"), identity=Identity("/home/new", 1, 2))
    await table.put(two)
    await table.close()
    assert await rows_of(state) == [ONE, two]
    assert stat.S_IMODE((state / "roster.db").stat().st_mode) == 0o600


async def test_a_file_that_was_replaced_gets_the_rows_of_this_server(tmp_path: Path) -> None:
    other = WorkspaceTable(tmp_path / "other.db")
    await other.open()
    foreign = replace(ONE, id=WorkspaceId("w8"), identity=Identity("/home/foreign", 8, 8))
    await other.put(foreign)
    await other.put(replace(ONE, id=WorkspaceId("w9")))  # another id for the same path
    await other.close()
    table = WorkspaceTable(tmp_path / "roster.db")
    await table.open()
    await table.put(ONE)
    (tmp_path / "other.db").replace(tmp_path / "roster.db")
    await table.remove(WorkspaceId("unknown"))
    await table.close()
    assert sorted(await rows_of(tmp_path), key=lambda one: one.id) == [ONE, foreign]


async def test_a_change_that_cannot_be_stored_is_refused_until_it_can(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    table = WorkspaceTable(state / "roster.db")
    await table.open()
    await table.put(ONE)
    shutil.rmtree(state)
    state.write_text("a file in the way")
    with pytest.raises(WorkspaceTableFailed):
        await table.remove(ONE.id)
    state.unlink()
    two = replace(ONE, id=WorkspaceId("w2"), identity=Identity("/home/new", 1, 2))
    await table.put(two)
    await table.close()
    assert await rows_of(state) == [ONE, two]


async def rows_of(state: Path) -> list[Registration]:
    table = WorkspaceTable(state / "roster.db")
    rows = await table.open()
    await table.close()
    return rows


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "roster.db"
    with sqlite3.connect(path) as connection:
        connection.execute("pragma user_version = 99")
    connection.close()

    table = WorkspaceTable(path)
    with pytest.raises(WorkspaceTableFailed, match="newer"):
        await table.open()
    await table.close()


async def test_a_file_that_is_no_database_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "roster.db"
    path.write_bytes(b"this is no database at all" * 100)

    table = WorkspaceTable(path)
    with pytest.raises(WorkspaceTableFailed, match="move the file away"):
        await table.open()
    await table.close()
    assert path.read_bytes().startswith(b"this is no")
