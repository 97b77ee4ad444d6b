"""view, write and edit on real files."""

import asyncio
import base64
import os
import stat
from pathlib import Path

import pytest

from protocol.limits import Limits
from tests.support.harness.tool_bench import bench
from tests.support.run_coroutine import run

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def _run(tmp_path, story, **more):
    async def main():
        async with bench(tmp_path, **more) as place:
            await story(place)

    run(main())


def test_view_shows_numbered_lines_and_where_to_read_on(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("".join(f"line {n}\n" for n in range(1, 501)))

    async def story(place):
        first = await place.call("view", file_path="a")
        assert first.content.startswith("<file>\n     1|line 1\n     2|line 2\n")
        assert first.content.endswith("   200|line 200\n</file>\n(The file has more lines: read on with offset 200)")
        last = await place.call("view", file_path="a", offset=498, limit=10)
        assert last.content == "<file>\n   499|line 499\n   500|line 500\n</file>"
        assert last.metadata == {"file_path": str(tmp_path / "a"), "content": "line 499\nline 500"}
        beyond = await place.call("view", file_path="a", offset=600)
        assert "no line at offset 600" in beyond.content

    _run(tmp_path, story)


def test_view_of_an_empty_file_and_of_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "crlf").write_bytes(b"a\r\nb\r\n")

    async def story(place):
        assert "(The file is empty)" in (await place.call("view", file_path="empty")).content
        assert (await place.call("view", file_path="crlf")).content == "<file>\n     1|a\n     2|b\n</file>"

    _run(tmp_path, story)


def test_view_is_bounded_in_line_section_and_memory(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("é" * 2000 + "\nshort\n")
    (tmp_path / "wide").write_text(("x" * 1500 + "\n") * 300)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(20_000_000_000)  # one line without an end, and no place on the disk

    async def story(place):
        lines = (await place.call("view", file_path="long")).content.split("\n")
        assert lines[1] == "     1|" + "é" * 1000 + " ... [2001 bytes of this line left out]"
        assert lines[2] == "     2|short"
        wide = await place.call("view", file_path="wide", limit=300)
        assert wide.is_error
        assert "use a smaller limit" in wide.content
        huge = await place.call("view", file_path="huge")
        assert huge.is_error
        assert "took too long" in huge.content

    _run(tmp_path, story, limits=Limits(search_deadline_s=0.5))


def test_view_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"ok\n\xff\xfe\n")
    (tmp_path / "settings.py").touch()
    (tmp_path / "fake.png").write_text("no image")

    async def story(place):
        for path, said in (
            ("binary", "line 1 is not UTF-8"),
            ("setings.py", "did you mean settings.py?"),
            (".", "is a directory"),
            ("fake.png", "not a PNG, JPEG, GIF or WebP"),
            ("settings.py/x", "does not exist"),
        ):
            result = await place.call("view", file_path=path)
            assert result.is_error
            assert said in result.content

    _run(tmp_path, story)


def test_view_shows_an_image_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "snapshot.jpg").write_bytes(PNG)
    (tmp_path / "big.png").write_bytes(PNG + bytes(300_000))

    async def story(place):
        result = await place.call("view", file_path="snapshot.jpg")
        assert (result.mime_type, base64.b64decode(result.data)) == ("image/png", PNG)
        assert "larger than" in (await place.call("view", file_path="big.png")).content
        place.takes_images = False
        blind = await place.call("view", file_path="snapshot.jpg")
        assert blind.is_error
        assert "cannot see images" in blind.content

    _run(tmp_path, story)


def test_write_makes_files_with_their_directories(tmp_path: Path) -> None:
    async def story(place):
        result = await place.call("write", file_path="a/b/c.txt", content="one\ntwo")
        assert not result.is_error
        assert (tmp_path / "a/b/c.txt").read_text() == "one\ntwo"
        assert result.metadata["additions"] == 2
        assert result.metadata["removals"] == 0
        assert "+one\n+two\n\\ No newline at end of file" in result.metadata["diff"]
        assert os.listdir(tmp_path / "a/b") == ["c.txt"]
        # What the session wrote it has seen.
        assert not (await place.call("write", file_path="a/b/c.txt", content="three")).is_error

    _run(tmp_path, story)


def test_write_refuses_what_was_not_seen_what_changed_and_what_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    async def story(place):
        assert "has not been read" in (await place.call("write", file_path="a", content="new")).content
        await place.call("view", file_path="a")
        assert "exactly this content" in (await place.call("write", file_path="a", content="old")).content
        (tmp_path / "a").write_text("odd")  # the same length, within the same second
        assert "has changed since" in (await place.call("write", file_path="a", content="new")).content
        assert "has not been read" in (await place.call("write", "s2", file_path="a", content="new")).content
        assert (tmp_path / "a").read_text() == "odd"
        await place.call("view", file_path="a")
        assert not (await place.call("write", file_path="a", content="new")).is_error

    _run(tmp_path, story)


def test_write_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def story(place):
        for path, content, said in (
            (".", "x", "directory"),
            ("file/x", "x", "cannot write file/x"),
            ("x", "x" * 2000, "more than 1000 bytes"),
            ("n" * 300, "x", "cannot"),
        ):
            result = await place.call("write", file_path=path, content=content)
            assert result.is_error
            assert said in result.content
        assert os.listdir(tmp_path) == ["file"]

    _run(tmp_path, story, limits=Limits(edit_max_bytes=1000))


@pytest.mark.parametrize("mode", [0o755, 0o600, 0o640])
def test_a_changed_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a").write_text("x = 1\n")
    (tmp_path / "a").chmod(mode)

    async def story(place):
        await place.call("view", file_path="a")
        assert not (await place.call("edit", file_path="a", old_string="1", new_string="2")).is_error
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
        assert not (await place.call("write", file_path="a", content="")).is_error
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode

    _run(tmp_path, story)


def test_a_link_inside_stays_a_link_and_its_target_is_changed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")

    async def story(place):
        await place.call("view", file_path="link")
        assert not (await place.call("edit", file_path="link", old_string="x", new_string="y")).is_error
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_text() == "y"

    _run(tmp_path, story)


def test_edit_changes_one_place_or_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\r\ntwo\r\ntwo\r\n")

    async def story(place):
        await place.call("view", file_path="a")
        result = await place.call("edit", file_path="a", old_string="one\ntwo", new_string="1\n1.5\n2")
        assert result.content == "<result>\nChanged 1 place in a\n</result>"
        assert (tmp_path / "a").read_bytes() == b"1\r\n1.5\r\n2\r\ntwo\r\n"
        assert result.metadata == {
            "additions": 3,
            "removals": 2,
            "old_content": "one\r\ntwo\r\ntwo\r\n",
            "new_content": "1\r\n1.5\r\n2\r\ntwo\r\n",
        }
        result = await place.call("edit", file_path="a", old_string="1", new_string="", replace_all=True)
        assert "2 places" in result.content
        assert (tmp_path / "a").read_bytes() == b"\r\n.5\r\n2\r\ntwo\r\n"

    _run(tmp_path, story)


def test_edit_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("two two\n")
    (tmp_path / "binary").write_bytes(b"\xff")

    async def story(place):
        async def said(**args):
            result = await place.call("edit", **args)
            assert result.is_error
            return result.content

        assert "has not been read" in await said(file_path="a", old_string="two", new_string="x")
        await place.call("view", file_path="a")
        assert "more than once" in await said(file_path="a", old_string="two", new_string="x")
        assert "not found" in await said(file_path="a", old_string="three", new_string="x")
        assert "nothing would change" in await said(file_path="a", old_string="two two", new_string="two two")
        assert "it exists" in await said(file_path="a", old_string="", new_string="x")
        assert "does not exist" in await said(file_path="b", old_string="x", new_string="y")
        assert "directory" in await said(file_path=".", old_string="x", new_string="y")
        await place.ledger.record_read(
            "s1", str(tmp_path / "binary"), "a8100ae6aa1940d0b663bb31cd466142ebbdbd5187131b92d93818987832eb89"
        )
        assert "not UTF-8" in await said(file_path="binary", old_string="x", new_string="y")
        (tmp_path / "a").write_text("two TWO\n")
        assert "has changed since" in await said(file_path="a", old_string="two", new_string="x")
        assert (tmp_path / "a").read_text() == "two TWO\n"

    _run(tmp_path, story)


def test_edit_makes_a_file(tmp_path: Path) -> None:
    async def story(place):
        assert "Created" in (await place.call("edit", file_path="d/new", old_string="", new_string="x\n")).content
        assert (tmp_path / "d/new").read_text() == "x\n"
        assert not (await place.call("edit", file_path="d/new", old_string="x", new_string="y")).is_error

    _run(tmp_path, story)


def test_two_sessions_that_edit_one_file_lose_nothing(tmp_path: Path) -> None:
    """The check of the content and the write are one step: the second gets an error, not the first one's change."""
    (tmp_path / "a").write_text("left right\n")

    async def story(place):
        for session in ("s1", "s2"):
            await place.call("view", session, file_path="a")
        results = await asyncio.gather(
            place.call("edit", "s1", file_path="a", old_string="left", new_string="LEFT"),
            place.call("edit", "s2", file_path="a", old_string="right", new_string="RIGHT"),
        )
        assert sorted(result.is_error for result in results) == [False, True]
        assert (tmp_path / "a").read_text() in ("LEFT right\n", "left RIGHT\n")

    _run(tmp_path, story)


def test_long_contents_are_not_stored_beside_the_result(tmp_path: Path) -> None:
    async def story(place):
        await place.call("write", file_path="a", content="x" * 900)
        result = await place.call("edit", file_path="a", old_string="x" * 900, new_string="y" * 900)
        assert result.metadata == {"additions": 1, "removals": 1}

    _run(tmp_path, story, limits=Limits(tool_metadata_max_bytes=1000))
