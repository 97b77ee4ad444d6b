"""Test view, write and edit on real files."""

import asyncio
import base64
import os
import stat
from pathlib import Path

import pytest

from protocol.limits import Limits
from tests.support.harness.tool_bench import bench

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


async def test_view_shows_numbered_lines_and_where_to_read_on(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("".join(f"line {n}\n" for n in range(1, 501)))

    async with bench(tmp_path) as tools:
        first = await tools.call("view", file_path="a")
        assert first.content.startswith("<file>\n     1|line 1\n     2|line 2\n")
        assert first.content.endswith("   200|line 200\n</file>\n(The file has more lines: read on with offset 200)")
        last = await tools.call("view", file_path="a", offset=498, limit=10)
        assert last.content == "<file>\n   499|line 499\n   500|line 500\n</file>"
        assert last.metadata == {"file_path": str(tmp_path / "a"), "content": "line 499\nline 500"}
        beyond = await tools.call("view", file_path="a", offset=600)
        assert "no line at offset 600" in beyond.content


async def test_view_handles_empty_files_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "crlf").write_bytes(b"a\r\nb\r\n")

    async with bench(tmp_path) as tools:
        assert "(The file is empty)" in (await tools.call("view", file_path="empty")).content
        assert (await tools.call("view", file_path="crlf")).content == "<file>\n     1|a\n     2|b\n</file>"


async def test_view_is_bounded_in_line_length_size_and_memory(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("é" * 2000 + "\nshort\n")
    (tmp_path / "wide").write_text(("x" * 1500 + "\n") * 300)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(20_000_000_000)  # a sparse file: one line without an end that uses no disk space

    async with bench(tmp_path, limits=Limits(search_deadline_s=0.5)) as tools:
        lines = (await tools.call("view", file_path="long")).content.split("\n")
        assert lines[1] == "     1|" + "é" * 1000 + " ... [2001 bytes of this line left out]"
        assert lines[2] == "     2|short"
        wide = await tools.call("view", file_path="wide", limit=300)
        assert wide.is_error
        assert "use a smaller limit" in wide.content
        huge = await tools.call("view", file_path="huge")
        assert huge.is_error
        assert "took too long" in huge.content


async def test_view_names_what_is_wrong_with_a_path(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"ok\n\xff\xfe\n")
    (tmp_path / "settings.py").touch()
    (tmp_path / "fake.png").write_text("no image")

    async with bench(tmp_path) as tools:
        for path, error in (
            ("binary", "line 1 is not UTF-8"),
            ("setings.py", "did you mean settings.py?"),
            (".", "is a directory"),
            ("fake.png", "not a PNG, JPEG, GIF or WebP"),
            ("settings.py/x", "does not exist"),
        ):
            result = await tools.call("view", file_path=path)
            assert result.is_error
            assert error in result.content


async def test_view_recognises_an_image_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(PNG)
    (tmp_path / "big.png").write_bytes(PNG + bytes(300_000))

    async with bench(tmp_path) as tools:
        result = await tools.call("view", file_path="image.jpg")
        assert (result.mime_type, base64.b64decode(result.data)) == ("image/png", PNG)
        assert "larger than" in (await tools.call("view", file_path="big.png")).content
        tools.takes_images = False
        refused = await tools.call("view", file_path="image.jpg")
        assert refused.is_error
        assert "cannot see images" in refused.content


async def test_write_creates_a_file_and_its_directories(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        result = await tools.call("write", file_path="a/b/c.txt", content="one\ntwo")
        assert not result.is_error
        assert (tmp_path / "a/b/c.txt").read_text() == "one\ntwo"
        assert result.metadata["additions"] == 2
        assert result.metadata["removals"] == 0
        assert "+one\n+two\n\\ No newline at end of file" in result.metadata["diff"]
        assert os.listdir(tmp_path / "a/b") == ["c.txt"]
        # A file that the session wrote counts as read.
        assert not (await tools.call("write", file_path="a/b/c.txt", content="three")).is_error


async def test_write_refuses_a_file_that_was_not_read_has_changed_or_would_stay_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    async with bench(tmp_path) as tools:
        assert "has not been read" in (await tools.call("write", file_path="a", content="new")).content
        await tools.call("view", file_path="a")
        assert "exactly this content" in (await tools.call("write", file_path="a", content="old")).content
        (tmp_path / "a").write_text("odd")  # the same length, within the same second
        assert "has changed since" in (await tools.call("write", file_path="a", content="new")).content
        assert "has not been read" in (await tools.call("write", "s2", file_path="a", content="new")).content
        assert (tmp_path / "a").read_text() == "odd"
        await tools.call("view", file_path="a")
        assert not (await tools.call("write", file_path="a", content="new")).is_error


async def test_write_names_what_is_wrong_with_a_call(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async with bench(tmp_path, limits=Limits(edit_max_bytes=1000)) as tools:
        for path, content, error in (
            (".", "x", "directory"),
            ("file/x", "x", "cannot write file/x"),
            ("x", "x" * 2000, "more than 1000 bytes"),
            ("n" * 300, "x", "cannot"),
        ):
            result = await tools.call("write", file_path=path, content=content)
            assert result.is_error
            assert error in result.content
        assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o755, 0o600, 0o640])
async def test_a_changed_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a").write_text("x = 1\n")
    (tmp_path / "a").chmod(mode)

    async with bench(tmp_path) as tools:
        await tools.call("view", file_path="a")
        assert not (await tools.call("edit", file_path="a", old_string="1", new_string="2")).is_error
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
        assert not (await tools.call("write", file_path="a", content="")).is_error
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


async def test_an_edit_through_a_link_changes_its_target_and_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")

    async with bench(tmp_path) as tools:
        await tools.call("view", file_path="link")
        assert not (await tools.call("edit", file_path="link", old_string="x", new_string="y")).is_error
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_text() == "y"


async def test_edit_replaces_one_occurrence_or_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\r\ntwo\r\ntwo\r\n")

    async with bench(tmp_path) as tools:
        await tools.call("view", file_path="a")
        result = await tools.call("edit", file_path="a", old_string="one\ntwo", new_string="1\n1.5\n2")
        assert result.content == "<result>\nChanged 1 place in a\n</result>"
        assert (tmp_path / "a").read_bytes() == b"1\r\n1.5\r\n2\r\ntwo\r\n"
        assert result.metadata == {
            "additions": 3,
            "removals": 2,
            "old_content": "one\r\ntwo\r\ntwo\r\n",
            "new_content": "1\r\n1.5\r\n2\r\ntwo\r\n",
        }
        result = await tools.call("edit", file_path="a", old_string="1", new_string="", replace_all=True)
        assert "2 places" in result.content
        assert (tmp_path / "a").read_bytes() == b"\r\n.5\r\n2\r\ntwo\r\n"


async def test_edit_names_what_is_wrong_with_a_call(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("two two\n")
    (tmp_path / "binary").write_bytes(b"\xff")

    async with bench(tmp_path) as tools:

        async def error_of(**args: object) -> str:
            result = await tools.call("edit", **args)
            assert result.is_error
            return result.content

        assert "has not been read" in await error_of(file_path="a", old_string="two", new_string="x")
        await tools.call("view", file_path="a")
        assert "more than once" in await error_of(file_path="a", old_string="two", new_string="x")
        assert "not found" in await error_of(file_path="a", old_string="three", new_string="x")
        assert "nothing would change" in await error_of(file_path="a", old_string="two two", new_string="two two")
        assert "it exists" in await error_of(file_path="a", old_string="", new_string="x")
        assert "does not exist" in await error_of(file_path="b", old_string="x", new_string="y")
        assert "directory" in await error_of(file_path=".", old_string="x", new_string="y")
        await tools.ledger.record_read(
            "s1", str(tmp_path / "binary"), "a8100ae6aa1940d0b663bb31cd466142ebbdbd5187131b92d93818987832eb89"
        )
        assert "not UTF-8" in await error_of(file_path="binary", old_string="x", new_string="y")
        (tmp_path / "a").write_text("two TWO\n")
        assert "has changed since" in await error_of(file_path="a", old_string="two", new_string="x")
        assert (tmp_path / "a").read_text() == "two TWO\n"


async def test_edit_creates_a_file(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        assert "Created" in (await tools.call("edit", file_path="d/new", old_string="", new_string="x\n")).content
        assert (tmp_path / "d/new").read_text() == "x\n"
        assert not (await tools.call("edit", file_path="d/new", old_string="x", new_string="y")).is_error


async def test_two_sessions_that_edit_one_file_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """The check of the content and the write are one step, so the second edit fails and overwrites nothing."""
    (tmp_path / "a").write_text("left right\n")

    async with bench(tmp_path) as tools:
        for session in ("s1", "s2"):
            await tools.call("view", session, file_path="a")
        results = await asyncio.gather(
            tools.call("edit", "s1", file_path="a", old_string="left", new_string="LEFT"),
            tools.call("edit", "s2", file_path="a", old_string="right", new_string="RIGHT"),
        )
        assert sorted(result.is_error for result in results) == [False, True]
        assert (tmp_path / "a").read_text() in ("LEFT right\n", "left RIGHT\n")


async def test_long_contents_are_not_stored_beside_the_result(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=Limits(tool_metadata_max_bytes=1000)) as tools:
        await tools.call("write", file_path="a", content="x" * 900)
        result = await tools.call("edit", file_path="a", old_string="x" * 900, new_string="y" * 900)
        assert result.metadata == {"additions": 1, "removals": 1}
