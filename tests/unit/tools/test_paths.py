"""Inside or outside, and all the ways to make it look otherwise (W-41, W-42, X07)."""

import contextlib
import ctypes
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness.tool_bench import bench
from worker.permissions.rules import Rules
from worker.toolkit.paths import locate, locate_inside, open_inside
from worker.toolkit.tool import ToolError
from worker.tools.files.file_io import replace_content

AT_FDCWD, RENAME_EXCHANGE = -100, 2


@pytest.fixture
def ground(tmp_path):
    """A workspace `proj` with a sibling `proj-secret` and links between them."""
    workspace, sibling = tmp_path / "proj", tmp_path / "proj-secret"
    (workspace / "sub").mkdir(parents=True)
    sibling.mkdir()
    (workspace / "in.txt").write_text("inside")
    (sibling / "out.txt").write_text("outside")
    (workspace / "link-out").symlink_to(sibling / "out.txt")
    (workspace / "dir-out").symlink_to(sibling)
    (workspace / "link-in").symlink_to("in.txt")
    (workspace / "dangling").symlink_to(sibling / "new.txt")
    (workspace / "loop").symlink_to("loop")
    (workspace / "..strange").write_text("a name that begins with dots")
    (sibling / "link-back").symlink_to(workspace / "in.txt")
    return workspace


@pytest.mark.parametrize(
    ("given", "is_inside"),
    [
        ("in.txt", True),
        ("./sub/../in.txt", True),
        ("..strange", True),
        ("link-in", True),
        ("not/there/yet", True),
        (".", True),
        ("", True),
        ("../proj-secret/link-back", True),
        ("..", False),
        ("../proj-secret/out.txt", False),
        ("sub/../../proj-secret/out.txt", False),
        ("link-out", False),
        ("dir-out/out.txt", False),
        ("dir-out/new/deeper", False),
        ("dangling", False),
        ("/etc/passwd", False),
    ],
)
def test_inside_is_decided_where_the_path_leads(ground: Any, given: str, is_inside: bool) -> None:
    assert locate(ground, given).inside is is_inside


def test_absolute_paths_inside_and_the_sibling_with_the_same_prefix(ground: Any) -> None:
    assert locate(ground, str(ground / "in.txt")).inside
    assert not locate(ground, f"{ground}-secret/out.txt").inside


def test_a_workspace_that_is_itself_reached_by_a_link(ground: Any, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(ground)
    assert locate(tmp_path / "alias", "in.txt").inside
    assert locate(tmp_path / "alias", str(ground / "in.txt")).inside


@pytest.mark.parametrize(
    ("tool", "args"),
    [
        ("view", {"file_path": "link-out"}),
        ("view", {"file_path": "../proj-secret/out.txt"}),
        ("write", {"file_path": "dangling", "content": "x"}),
        ("write", {"file_path": "dir-out/new.txt", "content": "x"}),
        ("edit", {"file_path": "dir-out/e.txt", "old_string": "", "new_string": "x"}),
        ("edit", {"file_path": "link-out", "old_string": "outside", "new_string": "x"}),
        ("ls", {"path": "dir-out"}),
        ("ls", {"path": "~/.."}),
        ("glob", {"pattern": "*", "path": ".."}),
        ("glob", {"pattern": "../*"}),
        ("glob", {"pattern": "/etc/*"}),
        ("grep", {"pattern": "outside", "path": "dir-out"}),
        ("grep", {"pattern": "outside", "path": "link-out"}),
        ("bash", {"command": "ls", "description": "d", "working_dir": ".."}),
        ("multiedit", {"file_path": "link-out", "edits": [{"old_string": "outside", "new_string": "x"}]}),
    ],
)
async def test_no_tool_follows_a_path_that_leads_out_without_permission(
    ground: Any, tool: str, args: dict[str, Any]
) -> None:
    async with bench(ground, rules=Rules()) as place:
        result = await place.call(tool, **args)
        assert result.is_error
        assert "cannot" in result.content
    assert sorted(path.name for path in (ground.parent / "proj-secret").iterdir()) == ["link-back", "out.txt"]
    assert (ground.parent / "proj-secret" / "out.txt").read_text() == "outside"


async def test_with_permission_the_outside_is_open(ground: Any) -> None:
    async with bench(ground, rules=Rules(skip=True)) as place:
        assert "outside" in (await place.call("view", file_path="link-out")).content
        assert "out.txt" in (await place.call("ls", path="dir-out")).content
        assert "out.txt" in (await place.call("glob", pattern="*", path="../proj-secret")).content
        assert "1 match" in (await place.call("grep", pattern="^outside$", path="dir-out")).content
        assert "secret" in (await place.bash("pwd", working_dir="../proj-secret")).content


async def test_the_directories_of_skills_need_no_permission_to_be_read(ground: Any) -> None:
    async with bench(ground, rules=Rules()) as place:
        place.readable = (ground.parent / "proj-secret",)
        assert "outside" in (await place.call("view", file_path="link-out")).content
        assert (await place.call("view", file_path="../other")).is_error
        assert (await place.call("write", file_path="dir-out/x", content="x")).is_error


async def test_searches_do_not_follow_links_out(ground: Any) -> None:
    async with bench(ground) as place:
        assert "out.txt" not in (await place.call("glob", pattern="**/*")).content
        assert "No matches" in (await place.call("grep", pattern="^outside$")).content
        listing = (await place.call("ls")).content
        assert "dir-out@" in listing
        assert "out.txt" not in listing


async def test_a_loop_of_links_is_an_error_result(ground: Any) -> None:
    async with bench(ground) as place:
        assert (await place.call("view", file_path="loop")).is_error


def test_what_is_no_file_is_not_opened(ground: Any) -> None:
    os.mkfifo(ground / "pipe")  # opening it would wait for a writer
    with pytest.raises(ToolError, match="regular"):
        open_inside(locate_inside(ground, "pipe", verb="view"))
    with pytest.raises(ToolError, match="directory"):
        open_inside(locate_inside(ground, "sub", verb="view"))


def test_a_directory_exchanged_for_a_link_after_the_check_is_noticed(ground: Any) -> None:
    (ground / "sub" / "out.txt").write_text("inside")
    place = locate_inside(ground, "sub/out.txt", verb="view")
    (ground / "sub").rename(ground / "old")
    (ground / "sub").symlink_to(ground.parent / "proj-secret")
    with pytest.raises(ToolError, match="moved"):
        open_inside(place)


def test_nothing_is_written_outside_while_a_directory_is_exchanged_all_the_time(ground: Any) -> None:
    """X07: a path that was found to be inside is never used to write elsewhere."""
    outside = ground.parent / "proj-secret"
    before = sorted(path.name for path in outside.iterdir())
    names = [os.fsencode(ground / name) for name in ("sub", "link")]
    (ground / "link").symlink_to(outside)
    rename = ctypes.CDLL(None).renameat2
    place = locate_inside(ground, "sub/new", verb="write")
    is_over = threading.Event()

    def exchange():
        while not is_over.is_set():
            rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)

    thread = threading.Thread(target=exchange)
    thread.start()
    written = 0
    try:
        for _ in range(300):
            with contextlib.suppress(ToolError):
                replace_content(place, b"x", None)
                written += 1
    finally:
        is_over.set()
        thread.join()
    assert sorted(path.name for path in outside.iterdir()) == before
    assert written, "it never worked; then it proves nothing"
