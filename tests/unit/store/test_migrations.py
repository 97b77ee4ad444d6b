"""A file of older code becomes one of this code: the same as a fresh one, with all that it held, or nothing changes."""

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


def shape_of(connection: sqlite3.Connection) -> dict[str, object]:
    """Tables with their columns, and indexes; the order of the columns does not matter to us."""
    found: dict[str, object] = {}
    for kind, name, text in connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
        if kind == "table":
            columns = connection.execute(f"SELECT * FROM pragma_table_info('{name}')").fetchall()
            found[name] = sorted(column[1:] for column in columns)
        elif text is not None:
            found[name] = text
    return found


def fresh(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, random.Random(1))
    return connection


def old(path: Path) -> sqlite3.Connection:
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


def test_a_migrated_file_equals_a_fresh_one_and_keeps_what_it_held(tmp_path: Path) -> None:
    with closing(old(tmp_path / "old.db")) as migrated, closing(fresh(tmp_path / "fresh.db")) as made:
        assert migrate(migrated, random.Random(1)) == SCHEMA_VERSION - 1
        assert shape_of(migrated) == shape_of(made)
        assert migrated.execute("SELECT title FROM sessions").fetchall() == [("kept",)]
        assert migrated.execute("SELECT prompt FROM runs").fetchall() == [("p",)]
        assert migrated.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert migrate(migrated, random.Random(1)) == 0


def test_D11_a_step_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("out of luck")

    monkeypatch.setattr(migrations, "STEPS", (*STEPS, breaks))
    with closing(old(tmp_path / "old.db")) as connection:
        before = shape_of(connection)
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection, random.Random(1))
        assert shape_of(connection) == before
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_D11_a_crash_inside_a_migration_changes_nothing_and_it_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    connection = old(path)
    before = shape_of(connection)
    connection.close()
    script = """
import os, random, signal, sqlite3, sys
from worker.store import migrations
def dies(connection):
    os.kill(os.getpid(), signal.SIGKILL)
migrations.STEPS = (*migrations.STEPS[:-1], dies)
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
migrations.migrate(connection, random.Random(1))
"""
    died = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    connection = sqlite3.connect(path, isolation_level=None)
    assert shape_of(connection) == before
    assert migrate(connection, random.Random(1)) == SCHEMA_VERSION - 1
    assert connection.execute("SELECT title FROM sessions").fetchall() == [("kept",)]
    connection.close()
