"""Test the stored versions of files: numbered by session and path, bounded in number and in size."""

import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from protocol.api.session import Session
from protocol.base.clock import SystemClock
from protocol.limits import DEFAULT_LIMITS, Limits
from tests.support.harness.store import StoreListener, open_database
from worker.store.database import Database, Transaction
from worker.store.tables import file_versions, sessions
from worker.store.tables.file_versions import StoredHistory


@dataclass(frozen=True)
class History:
    """A stored history, its database, and the events of that database."""

    stored: StoredHistory
    database: Database
    listener: StoreListener

    async def versions(self, session_id: str) -> list[tuple[str, int, str]]:
        """Return (path, version, content) of every stored version of a session."""
        found = await self.database.read(lambda connection: file_versions.of_session(connection, session_id))
        return [(one.path, one.version, one.content) for one in found]


@contextlib.asynccontextmanager
async def open_history(tmp_path: Path, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[History]:
    """Open a history in a database that holds the sessions s1 and s2."""
    listener = StoreListener()
    database = await open_database(tmp_path / "workspace.db", listener, limits)

    def create_sessions(transaction: Transaction) -> None:
        for name in ("s1", "s2"):
            sessions.create(transaction.connection, Session(id=name))

    await database.write(create_sessions)
    yield History(StoredHistory(database, limits, SystemClock(), random.Random(1)), database, listener)
    await database.close(5)


async def test_version_0_is_the_content_before_the_first_change(tmp_path: Path) -> None:
    async with open_history(tmp_path) as history:
        await history.stored.record("s1", "/a", "one", "two")
        await history.stored.record("s1", "/a", "two", "three")
        await history.stored.record("s1", "/new", None, "x")
        assert await history.versions("s1") == [
            ("/a", 0, "one"),
            ("/new", 0, ""),
            ("/a", 1, "two"),
            ("/new", 1, "x"),
            ("/a", 2, "three"),
        ]
        assert [event.kind for event in history.listener.events] == ["file"] * 5


async def test_a_change_made_outside_the_session_becomes_a_version_too(tmp_path: Path) -> None:
    async with open_history(tmp_path) as history:
        await history.stored.record("s1", "/a", "one", "two")
        await history.stored.record("s1", "/a", "by hand", "three")
        assert [content for _, _, content in await history.versions("s1")] == ["one", "two", "by hand", "three"]


async def test_W_64_each_session_numbers_its_own_versions(tmp_path: Path) -> None:
    async with open_history(tmp_path) as history:
        await history.stored.record("s1", "/a", "one", "two")
        await history.stored.record("s2", "/a", "two", "three")
        assert await history.versions("s1") == [("/a", 0, "one"), ("/a", 1, "two")]
        assert await history.versions("s2") == [("/a", 0, "two"), ("/a", 1, "three")]
        await history.database.write(lambda transaction: sessions.remove(transaction.connection, "s1"))
        assert await history.versions("s1") == []
        await history.stored.record("s1", "/a", "x", "y")  # the session is deleted: nothing is stored and nothing fails
        assert await history.versions("s1") == []


async def test_only_the_first_and_newest_versions_are_kept_and_long_files_are_not_stored(tmp_path: Path) -> None:
    limits = Limits(history_versions_kept=3, history_file_max_bytes=1000)
    async with open_history(tmp_path, limits) as history:
        for number in range(20):
            await history.stored.record("s1", "/a", str(number), str(number + 1))
        versions = await history.versions("s1")
        assert versions[0] == ("/a", 0, "0")
        assert [version for _, version, _ in versions[1:]] == [18, 19, 20]
        await history.stored.record("s1", "/big", "x" * 2000, "y")
        assert [path for path, _, _ in await history.versions("s1")] == ["/a"] * 4
