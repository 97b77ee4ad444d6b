"""The list of workspaces survives its server."""

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


async def test_rows_survive(tmp_path: Path) -> None:
    roster = WorkspaceTable(tmp_path / "roster.db")
    assert await roster.open() == []
    await roster.add(ONE)
    await roster.close()
    again = WorkspaceTable(tmp_path / "roster.db")
    assert await again.open() == [ONE]
    await again.remove(ONE.id)
    await again.close()
    last = WorkspaceTable(tmp_path / "roster.db")
    assert await last.open() == []
    await last.close()
    assert stat.S_IMODE((tmp_path / "roster.db").stat().st_mode) == 0o600


async def test_one_path_is_registered_once(tmp_path: Path) -> None:
    roster = WorkspaceTable(tmp_path / "roster.db")
    await roster.open()
    await roster.add(ONE)
    with pytest.raises(WorkspaceTableFailed):
        await roster.add(Registration(id=WorkspaceId("w2"), identity=ONE.identity, asked_path="/", data_dir="/"))
    await roster.remove(ONE.id)  # the failed write left nothing behind
    await roster.close()


async def test_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "roster.db"
    with sqlite3.connect(path) as connection:
        connection.execute("pragma user_version = 99")
    connection.close()

    roster = WorkspaceTable(path)
    with pytest.raises(WorkspaceTableFailed, match="newer"):
        await roster.open()
    await roster.close()


async def test_garbage_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "roster.db"
    path.write_bytes(b"this is no database at all" * 100)

    roster = WorkspaceTable(path)
    with pytest.raises(WorkspaceTableFailed, match="move the file away"):
        await roster.open()
    await roster.close()
    assert path.read_bytes().startswith(b"this is no")
