"""Test whether a path is inside the workspace, with links, dots and exchanged directories (W-41, W-42, X07)."""

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
def workspace(tmp_path: Path) -> Path:
    """Create a workspace `proj` with a sibling `proj-secret` and links between them."""
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
    ("path", "is_inside"),
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
def test_a_path_is_inside_when_its_resolved_target_is(workspace: Path, path: str, is_inside: bool) -> None:
    assert locate(workspace, path).inside is is_inside


def test_a_sibling_directory_with_the_same_prefix_is_outside(workspace: Path) -> None:
    assert locate(workspace, str(workspace / "in.txt")).inside
    assert not locate(workspace, f"{workspace}-secret/out.txt").inside


def test_a_workspace_opened_through_a_link_contains_its_files(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(workspace)
    assert locate(tmp_path / "alias", "in.txt").inside
    assert locate(tmp_path / "alias", str(workspace / "in.txt")).inside


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
async def test_no_tool_follows_a_path_out_of_the_workspace_without_permission(
    workspace: Path, tool: str, args: dict[str, Any]
) -> None:
    async with bench(workspace, rules=Rules()) as tools:
        result = await tools.call(tool, **args)
        assert result.is_error
        assert "cannot" in result.content
    assert sorted(path.name for path in (workspace.parent / "proj-secret").iterdir()) == ["link-back", "out.txt"]
    assert (workspace.parent / "proj-secret" / "out.txt").read_text() == "outside"


async def test_with_permission_tools_work_outside_the_workspace(workspace: Path) -> None:
    async with bench(workspace, rules=Rules(skip=True)) as tools:
        assert "outside" in (await tools.call("view", file_path="link-out")).content
        assert "out.txt" in (await tools.call("ls", path="dir-out")).content
        assert "out.txt" in (await tools.call("glob", pattern="*", path="../proj-secret")).content
        assert "1 match" in (await tools.call("grep", pattern="^outside$", path="dir-out")).content
        assert "secret" in (await tools.bash("pwd", working_dir="../proj-secret")).content


async def test_reading_skill_directories_needs_no_permission(workspace: Path) -> None:
    async with bench(workspace, rules=Rules()) as tools:
        tools.readable = (workspace.parent / "proj-secret",)
        assert "outside" in (await tools.call("view", file_path="link-out")).content
        assert (await tools.call("view", file_path="../other")).is_error
        assert (await tools.call("write", file_path="dir-out/x", content="x")).is_error


async def test_searches_do_not_follow_links_out_of_the_workspace(workspace: Path) -> None:
    async with bench(workspace) as tools:
        assert "out.txt" not in (await tools.call("glob", pattern="**/*")).content
        assert "No matches" in (await tools.call("grep", pattern="^outside$")).content
        listing = (await tools.call("ls")).content
        assert "dir-out@" in listing
        assert "out.txt" not in listing


async def test_a_link_to_itself_is_an_error_result(workspace: Path) -> None:
    async with bench(workspace) as tools:
        assert (await tools.call("view", file_path="loop")).is_error


def test_a_path_that_is_not_a_regular_file_is_not_opened(workspace: Path) -> None:
    os.mkfifo(workspace / "pipe")  # opening a pipe would wait for a writer
    with pytest.raises(ToolError, match="regular"):
        open_inside(locate_inside(workspace, "pipe", verb="view"))
    with pytest.raises(ToolError, match="directory"):
        open_inside(locate_inside(workspace, "sub", verb="view"))


def test_a_directory_replaced_by_a_link_after_the_check_is_detected(workspace: Path) -> None:
    (workspace / "sub" / "out.txt").write_text("inside")
    location = locate_inside(workspace, "sub/out.txt", verb="view")
    (workspace / "sub").rename(workspace / "old")
    (workspace / "sub").symlink_to(workspace.parent / "proj-secret")
    with pytest.raises(ToolError, match="moved"):
        open_inside(location)


def test_nothing_is_written_outside_while_a_directory_is_repeatedly_replaced_by_a_link(workspace: Path) -> None:
    """X07: after the check, a path inside the workspace is never used to write outside of it."""
    outside = workspace.parent / "proj-secret"
    before = sorted(path.name for path in outside.iterdir())
    names = [os.fsencode(workspace / name) for name in ("sub", "link")]
    (workspace / "link").symlink_to(outside)
    rename = ctypes.CDLL(None).renameat2
    location = locate_inside(workspace, "sub/new", verb="write")
    is_done = threading.Event()

    def exchange() -> None:
        while not is_done.is_set():
            rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)

    thread = threading.Thread(target=exchange)
    thread.start()
    written = 0
    try:
        for _ in range(300):
            with contextlib.suppress(ToolError):
                replace_content(location, b"x", None)
                written += 1
    finally:
        is_done.set()
        thread.join()
    assert sorted(path.name for path in outside.iterdir()) == before
    assert written, "no write succeeded, so the test proves nothing"
