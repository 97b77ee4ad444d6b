"""Test tools with unusual input: nulls, odd names, other owners, rare signals and misleading files."""

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from protocol.limits import Limits
from tests.support.eventually import eventually
from tests.support.harness.tool_bench import bench

REPORT = 'report=$(tr "\\0" "\\n" </proc/$$/cmdline | grep -ao "/[^ ]*bulkhead-[^ ]*cwd" | head -n 1); trap - EXIT; '
"""A command that finds the file to which its shell reports the last directory, and removes the exit trap."""


async def test_a_null_argument_counts_as_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")

    async with bench(tmp_path) as tools:
        assert not (await tools.call("view", file_path="a.txt", offset=None, limit=None)).is_error
        assert not (await tools.call("ls", path=None, ignore=None, depth=None)).is_error
        edits = [{"old_string": "x", "new_string": "y", "replace_all": None}]
        assert not (await tools.call("multiedit", file_path="a.txt", edits=edits)).is_error
        result = await tools.bash("echo hi", working_dir=None, run_in_background=None, auto_background_after=None)
        assert result.content.startswith("hi")
        missing = await tools.call("view", file_path=None)
        assert missing.is_error
        assert "file_path" in missing.content


async def test_a_command_ended_by_a_signal_without_a_name_is_reported_with_its_number(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        result = await tools.bash(f"kill -{signal.SIGRTMIN + 3} $$")
        assert not result.is_error
        assert f"Command was ended by signal {signal.SIGRTMIN + 3}" in result.content


@pytest.mark.parametrize(
    "trap", ['mkfifo "$report"', 'ln -s /dev/zero "$report"', 'ln -s "$PWD/other" "$report"', 'mkdir "$report"']
)
async def test_a_link_or_pipe_in_place_of_the_directory_report_is_not_followed(tmp_path: Path, trap: str) -> None:
    (tmp_path / "other").write_text("/etc")
    (tmp_path / "tmp").mkdir()

    async with bench(tmp_path, env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "tmp")}) as tools:
        result = await tools.bash(f"{REPORT}{trap}; echo done")
        assert result.content == f"done\n\n<cwd>{tmp_path}</cwd>"


async def test_jobs_that_ignore_SIGTERM_are_ended_concurrently(tmp_path: Path) -> None:
    limits = Limits(tool_term_grace_s=5.0)

    async with bench(tmp_path, limits=limits) as tools:
        for number in range(6):
            command = f"trap '' TERM; touch ready{number}; while :; do sleep 1000; done"
            assert (await tools.bash(command, run_in_background=True)).metadata["background"]
        await eventually(lambda: all((tmp_path / f"ready{number}").exists() for number in range(6)))
        async with asyncio.timeout(3 * limits.tool_term_grace_s):  # ending them one after another takes twice as long
            await tools.jobs.close()
        assert tools.children.count == 0


async def test_the_error_for_too_long_input_says_what_to_do(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        assert "write" in (await tools.bash(f"true {'x' * 200_000}")).content
        assert "cannot search" in (await tools.call("grep", pattern="x" * 200_000)).content
        assert "too long" in (await tools.call("ls", path="x" * 300)).content


async def test_a_file_with_the_longest_allowed_name_can_be_edited(tmp_path: Path) -> None:
    name = "文" * 84 + ".c"  # 254 bytes
    (tmp_path / name).write_text("hi\n")

    async with bench(tmp_path) as tools:
        await tools.call("view", file_path=name)
        result = await tools.call("edit", file_path=name, old_string="hi", new_string="ho")
        assert not result.is_error, result.content
        assert (tmp_path / name).read_text() == "ho\n"
        assert os.listdir(tmp_path) == [name]


async def test_a_tilde_means_the_home_directory_for_all_tools_that_take_a_path(tmp_path: Path) -> None:
    home, workspace = tmp_path / "home", tmp_path / "w"
    home.mkdir()
    workspace.mkdir()

    async with bench(workspace, env={"PATH": os.environ["PATH"], "HOME": str(home)}) as tools:
        assert not (await tools.call("write", file_path="~/a.txt", content="x\n")).is_error
        assert (home / "a.txt").read_text() == "x\n"
        assert not (await tools.call("edit", file_path="~/a.txt", old_string="x", new_string="y")).is_error
        assert str(home) in (await tools.bash("pwd", working_dir="~")).content
        assert not list(workspace.iterdir())


async def test_an_edit_keeps_owner_mode_and_attributes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hi\n")
    if os.getuid() == 0:
        os.chown(path, 1234, 2345)
    path.chmod(0o2751)
    has_attributes = True
    try:
        os.setxattr(path, "user.note", b"kept")
    except OSError:
        has_attributes = False
    before = path.stat()

    async with bench(tmp_path) as tools:
        await tools.call("view", file_path="a.txt")
        assert not (await tools.call("edit", file_path="a.txt", old_string="hi", new_string="ho")).is_error
    after = path.stat()
    assert path.read_text() == "ho\n"
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o2751)
    if has_attributes:
        assert os.getxattr(path, "user.note") == b"kept"


async def test_a_read_only_file_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hi\n")
    path.chmod(0o444)

    async with bench(tmp_path) as tools:
        await tools.call("view", file_path="a.txt")
        for tool, args in (("edit", {"old_string": "hi", "new_string": "ho"}), ("write", {"content": "ho\n"})):
            result = await tools.call(tool, file_path="a.txt", **args)
            assert result.is_error
            assert "protected from writing" in result.content
    assert path.read_text() == "hi\n"


async def test_a_glob_searches_ignored_directories_that_it_names(tmp_path: Path) -> None:
    for name in ("dist/a.js", "dist/deep/node_modules/b.js", "build/c.txt", ".github/w.yml", "src/d.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "link").symlink_to("src")

    async with bench(tmp_path) as tools:

        async def found_by(pattern: str) -> list[str]:
            result = await tools.call("glob", pattern=pattern)
            if "No files" in result.content:
                return []
            return sorted(os.path.relpath(line, tmp_path) for line in result.content.splitlines())

        assert await found_by("dist/*.js") == ["dist/a.js"]
        assert await found_by("dist/**/*.js") == ["dist/a.js"]
        assert await found_by("{dist,src,d*}/**") == ["dist/a.js", "src/d.js"]
        assert await found_by(f"{tmp_path}/build/*") == ["build/c.txt"]
        assert await found_by(".github/*.yml") == [".github/w.yml"]
        assert await found_by("**/*.js") == ["src/d.js"]
        assert await found_by("link/*.js") == []
        assert await found_by("nowhere/at/all/*.js") == []


async def test_ls_expands_variables_except_secrets(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_text("")

    async with bench(
        tmp_path, env={"PATH": os.environ["PATH"], "WHERE": str(tmp_path), "MY_API_KEY": "hidden"}
    ) as tools:
        assert "x" in (await tools.call("ls", path="$WHERE/sub")).content
        assert "x" in (await tools.call("ls", path="${WHERE}/sub/")).content
        assert "hidden" not in (await tools.call("ls", path="$MY_API_KEY")).content


async def test_many_edits_in_a_long_file_stop_at_the_time_limit(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("some words in a line\n" * 100_000)
    limits = Limits(search_deadline_s=1.0)

    async with bench(tmp_path, limits=limits) as tools:
        await tools.call("view", file_path="long.txt")
        edits = [{"old_string": f"not there {number}", "new_string": "x"} for number in range(400)]
        result = await tools.call("multiedit", file_path="long.txt", edits=edits)
        assert result.is_error
        assert "fewer at once" in result.content


async def test_a_skill_is_viewed_whole_and_named_in_the_metadata(tmp_path: Path) -> None:
    workspace, skills = tmp_path / "w", tmp_path / "skills"
    workspace.mkdir()
    (skills / "paint").mkdir(parents=True)
    head = "---\nname: paint\ndescription: How to paint.\n---\n"
    (skills / "paint" / "SKILL.md").write_text(head + "a line of some length, to fill the pages\n" * 6000 + "the end\n")
    (skills / "paint" / "notes.md").write_text("a line\n" * 300)

    async with bench(workspace) as tools:
        tools.readable = (skills,)
        result = await tools.call("view", file_path=str(skills / "paint" / "SKILL.md"))
        assert not result.is_error, result.content
        assert "the end" in result.content
        assert result.metadata["resource_type"] == "skill"
        assert result.metadata["resource_name"] == "paint"
        assert result.metadata["resource_description"] == "How to paint."
        short = await tools.call("view", file_path=str(skills / "paint" / "SKILL.md"), limit=2)
        assert "read on with offset 2" in short.content
        other = await tools.call("view", file_path=str(skills / "paint" / "notes.md"))
        assert "read on with offset 200" in other.content
        assert "resource_type" not in other.metadata
