"""Test migrations: a file of an older version becomes equal to a fresh one and keeps its rows, or does not change."""

import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from worker.store import migrations
from worker.store.migrations import STEPS, migrate
from worker.store.schema import SCHEMA_VERSION

OLDEST = Path(__file__).parent / "schema_v1.sql"


def schema_of(connection: sqlite3.Connection) -> dict[str, object]:
    """Return the tables with their columns, and the indexes; the order of columns is ignored."""
    schema: dict[str, object] = {}
    for kind, name, text in connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
        if kind == "table":
            columns = connection.execute(f"SELECT * FROM pragma_table_info('{name}')").fetchall()
            schema[name] = sorted(column[1:] for column in columns)
        elif text is not None:
            schema[name] = text
    return schema


def open_fresh(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, random.Random(1), "1:1")
    return connection


def open_version_1(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(OLDEST.read_text())
    connection.execute("INSERT INTO meta VALUES ('log_id', 'abc')")
    connection.execute("INSERT INTO sessions (id, created_at, updated_at, title) VALUES ('s', 1, 1, 'kept')")
    connection.execute(
        "INSERT INTO runs (accept_seq, id, session_id, state, prompt, keyed, accepted_at_ms) "
        "VALUES (1, 'r', 's', 'ended', 'p', 1, 1)"
    )
    connection.execute("PRAGMA user_version = 1")
    return connection


def test_there_is_a_step_for_every_version() -> None:
    assert len(STEPS) == SCHEMA_VERSION - 1


def test_a_migrated_file_equals_a_fresh_one_and_keeps_its_rows(tmp_path: Path) -> None:
    with closing(open_version_1(tmp_path / "old.db")) as migrated, closing(open_fresh(tmp_path / "fresh.db")) as fresh:
        assert migrate(migrated, random.Random(1), "1:1") == SCHEMA_VERSION - 1
        assert schema_of(migrated) == schema_of(fresh)
        assert migrated.execute("SELECT title FROM sessions").fetchall() == [("kept",)]
        assert migrated.execute("SELECT prompt FROM runs").fetchall() == [("p",)]
        assert migrated.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert migrate(migrated, random.Random(1), "1:1") == 0


def test_D11_a_step_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("this step fails")

    monkeypatch.setattr(migrations, "STEPS", (*STEPS, fail))
    with closing(open_version_1(tmp_path / "old.db")) as connection:
        before = schema_of(connection)
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection, random.Random(1), "1:1")
        assert schema_of(connection) == before
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_D11_a_crash_inside_a_migration_changes_nothing_and_the_migration_can_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    connection = open_version_1(path)
    before = schema_of(connection)
    connection.close()
    script = """
import os, random, signal, sqlite3, sys
from worker.store import migrations
def kill_process(connection):
    os.kill(os.getpid(), signal.SIGKILL)
migrations.STEPS = (*migrations.STEPS[:-1], kill_process)
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
migrations.migrate(connection, random.Random(1), "1:1")
"""
    crashed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert crashed.returncode == -signal.SIGKILL
    connection = sqlite3.connect(path, isolation_level=None)
    assert schema_of(connection) == before
    assert migrate(connection, random.Random(1), "1:1") == SCHEMA_VERSION - 1
    assert connection.execute("SELECT title FROM sessions").fetchall() == [("kept",)]
    connection.close()
