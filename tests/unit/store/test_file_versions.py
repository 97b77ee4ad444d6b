"""The versions of files: numbered for each session and path, thinned out, and never too long."""

import random
from pathlib import Path

from protocol.api.session import Session
from protocol.base.clock import SystemClock
from protocol.limits import Limits
from tests.support.harness.store import StoreListener, open_database
from tests.support.run_coroutine import run
from worker.store import file_versions, sessions
from worker.store.file_versions import StoredHistory


def _run(tmp_path: Path, story, limits: Limits | None = None) -> None:
    limits = limits or Limits()

    async def main() -> None:
        heard = StoreListener()
        database = await open_database(tmp_path / "workspace.db", heard, limits)
        for name in ("s1", "s2"):
            await database.write(
                lambda transaction, name=name: sessions.create(transaction.connection, Session(id=name))
            )
        kept = StoredHistory(database, limits, SystemClock(), random.Random(1))

        async def versions(session_id: str) -> list[tuple[str, int, str]]:
            found = await database.read(lambda connection: file_versions.of_session(connection, session_id))
            return [(one.path, one.version, one.content) for one in found]

        await story(kept, versions, heard, database)
        await database.close(5)

    run(main())


def test_the_first_version_is_what_was_there_before(tmp_path: Path) -> None:
    async def story(kept, versions, heard, database):
        await kept.record("s1", "/a", "one", "two")
        await kept.record("s1", "/a", "two", "three")
        await kept.record("s1", "/new", None, "x")
        assert await versions("s1") == [
            ("/a", 0, "one"),
            ("/new", 0, ""),
            ("/a", 1, "two"),
            ("/new", 1, "x"),
            ("/a", 2, "three"),
        ]
        assert [event.kind for event in heard.events] == ["file"] * 5

    _run(tmp_path, story)


def test_what_somebody_else_wrote_meanwhile_is_a_version_too(tmp_path: Path) -> None:
    async def story(kept, versions, heard, database):
        await kept.record("s1", "/a", "one", "two")
        await kept.record("s1", "/a", "by hand", "three")
        assert [content for _, _, content in await versions("s1")] == ["one", "two", "by hand", "three"]

    _run(tmp_path, story)


def test_W_64_sessions_count_for_themselves(tmp_path: Path) -> None:
    async def story(kept, versions, heard, database):
        await kept.record("s1", "/a", "one", "two")
        await kept.record("s2", "/a", "two", "three")
        assert await versions("s1") == [("/a", 0, "one"), ("/a", 1, "two")]
        assert await versions("s2") == [("/a", 0, "two"), ("/a", 1, "three")]
        await database.write(lambda transaction: sessions.remove(transaction.connection, "s1"))
        assert await versions("s1") == []
        await kept.record("s1", "/a", "x", "y")  # its session is gone: nothing is kept, nothing breaks
        assert await versions("s1") == []

    _run(tmp_path, story)


def test_many_versions_are_thinned_and_long_files_left_out(tmp_path: Path) -> None:
    async def story(kept, versions, heard, database):
        for number in range(20):
            await kept.record("s1", "/a", str(number), str(number + 1))
        found = await versions("s1")
        assert found[0] == ("/a", 0, "0")
        assert [version for _, version, _ in found[1:]] == [18, 19, 20]
        await kept.record("s1", "/big", "x" * 2000, "y")
        assert [path for path, _, _ in await versions("s1")] == ["/a"] * 4

    _run(tmp_path, story, Limits(history_versions_kept=3, history_file_max_bytes=1000))
