"""The stored table of workspaces survives the server."""

import sqlite3
import stat
from pathlib import Path

import pytest

from protocol.ids import WorkspaceId
from supervisor.workspaces.identity import Identity
from supervisor.workspaces.workspace_table import Registration, WorkspaceTable, WorkspaceTableFailed

ONE = Registration(
    id=WorkspaceId("w1"),
    identity=Identity("/home/ü/project", 2**40, 2**64 - 1),
    asked_path="/link",
    data_dir="/home/ü/project/.bulkhead",
    skip_permissions=True,
    channels=("a", "b"),
    registered_at_ms=5,
)


async def test_rows_survive_a_restart(tmp_path: Path) -> None:
    table = WorkspaceTable(tmp_path / "roster.db")
    assert await table.open() == []
    await table.add(ONE)
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
    await table.add(ONE)
    with pytest.raises(WorkspaceTableFailed):
        await table.add(Registration(id=WorkspaceId("w2"), identity=ONE.identity, asked_path="/", data_dir="/"))
    await table.remove(ONE.id)  # the failed write left nothing behind
    await table.close()


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
