"""Tools met by what models, people and commands really do: nulls, odd names, other owners, odd ends, traps."""

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from protocol.limits import Limits
from tests.support.eventually import eventually
from tests.support.harness.tool_bench import bench
from tests.support.run_coroutine import run

REPORT = 'report=$(tr "\\0" "\\n" </proc/$$/cmdline | grep -ao "/[^ ]*bulkhead-[^ ]*cwd" | head -n 1); trap - EXIT; '
"""A command that finds the file for its last directory, and keeps the shell from writing it."""


def _run(workspace, story, **more):
    async def main():
        async with bench(workspace, **more) as place:
            await story(place)

    run(main())


def test_null_is_as_good_as_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")

    async def story(place):
        assert not (await place.call("view", file_path="a.txt", offset=None, limit=None)).is_error
        assert not (await place.call("ls", path=None, ignore=None, depth=None)).is_error
        edits = [{"old_string": "x", "new_string": "y", "replace_all": None}]
        assert not (await place.call("multiedit", file_path="a.txt", edits=edits)).is_error
        result = await place.bash("echo hi", working_dir=None, run_in_background=None, auto_background_after=None)
        assert result.content.startswith("hi")
        missing = await place.call("view", file_path=None)
        assert missing.is_error
        assert "file_path" in missing.content

    _run(tmp_path, story)


def test_a_command_that_a_nameless_signal_ends_is_told_like_any_other(tmp_path: Path) -> None:
    async def story(place):
        result = await place.bash(f"kill -{signal.SIGRTMIN + 3} $$")
        assert not result.is_error
        assert f"Command was ended by signal {signal.SIGRTMIN + 3}" in result.content

    _run(tmp_path, story)


@pytest.mark.parametrize(
    "trap", ['mkfifo "$report"', 'ln -s /dev/zero "$report"', 'ln -s "$PWD/other" "$report"', 'mkdir "$report"']
)
def test_what_a_command_lays_in_the_place_of_its_report_is_not_followed(tmp_path: Path, trap: str) -> None:
    (tmp_path / "other").write_text("/etc")
    (tmp_path / "tmp").mkdir()

    async def story(place):
        result = await place.bash(f"{REPORT}{trap}; echo done")
        assert result.content == f"done\n\n<cwd>{tmp_path}</cwd>"

    _run(tmp_path, story, env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "tmp")})


def test_jobs_that_will_not_end_are_ended_side_by_side(tmp_path: Path) -> None:
    limits = Limits(tool_term_grace_s=5.0)

    async def story(place):
        for number in range(6):
            command = f"trap '' TERM; touch ready{number}; while :; do sleep 1000; done"
            assert (await place.bash(command, run_in_background=True)).metadata["background"]
        await eventually(lambda: all((tmp_path / f"ready{number}").exists() for number in range(6)))
        async with asyncio.timeout(3 * limits.tool_term_grace_s):  # one after another would be twice that
            await place.jobs.close()
        assert place.children.count == 0

    _run(tmp_path, story, limits=limits)


def test_a_command_that_is_too_long_says_what_would_help(tmp_path: Path) -> None:
    async def story(place):
        assert "write" in (await place.bash(f"true {'x' * 200_000}")).content
        assert "cannot search" in (await place.call("grep", pattern="x" * 200_000)).content
        assert "too long" in (await place.call("ls", path="x" * 300)).content

    _run(tmp_path, story)


def test_names_as_long_as_they_may_be_in_any_script(tmp_path: Path) -> None:
    name = "文" * 84 + ".c"  # 254 bytes
    (tmp_path / name).write_text("hi\n")

    async def story(place):
        await place.call("view", file_path=name)
        result = await place.call("edit", file_path=name, old_string="hi", new_string="ho")
        assert not result.is_error, result.content
        assert (tmp_path / name).read_text() == "ho\n"
        assert os.listdir(tmp_path) == [name]

    _run(tmp_path, story)


def test_home_is_home_for_all_tools_that_take_a_path(tmp_path: Path) -> None:
    home, workspace = tmp_path / "home", tmp_path / "w"
    home.mkdir()
    workspace.mkdir()

    async def story(place):
        assert not (await place.call("write", file_path="~/a.txt", content="x\n")).is_error
        assert (home / "a.txt").read_text() == "x\n"
        assert not (await place.call("edit", file_path="~/a.txt", old_string="x", new_string="y")).is_error
        assert str(home) in (await place.bash("pwd", working_dir="~")).content
        assert not list(workspace.iterdir())

    _run(workspace, story, env={"PATH": os.environ["PATH"], "HOME": str(home)})


def test_a_change_keeps_owner_mode_and_attributes(tmp_path: Path) -> None:
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

    async def story(place):
        await place.call("view", file_path="a.txt")
        assert not (await place.call("edit", file_path="a.txt", old_string="hi", new_string="ho")).is_error

    _run(tmp_path, story)
    after = path.stat()
    assert path.read_text() == "ho\n"
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o2751)
    if has_attributes:
        assert os.getxattr(path, "user.note") == b"kept"


def test_a_file_that_is_protected_from_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hi\n")
    path.chmod(0o444)

    async def story(place):
        await place.call("view", file_path="a.txt")
        for tool, args in (("edit", {"old_string": "hi", "new_string": "ho"}), ("write", {"content": "ho\n"})):
            result = await place.call(tool, file_path="a.txt", **args)
            assert result.is_error
            assert "protected from writing" in result.content

    _run(tmp_path, story)
    assert path.read_text() == "hi\n"


def test_directories_that_a_pattern_names_are_meant(tmp_path: Path) -> None:
    for name in ("dist/a.js", "dist/deep/node_modules/b.js", "build/c.txt", ".github/w.yml", "src/d.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "link").symlink_to("src")

    async def found(place, pattern):
        result = await place.call("glob", pattern=pattern)
        if "No files" in result.content:
            return []
        return sorted(str(os.path.relpath(line, tmp_path)) for line in result.content.splitlines())

    async def story(place):
        assert await found(place, "dist/*.js") == ["dist/a.js"]
        assert await found(place, "dist/**/*.js") == ["dist/a.js"]
        assert await found(place, "{dist,src,d*}/**") == ["dist/a.js", "src/d.js"]
        assert await found(place, f"{tmp_path}/build/*") == ["build/c.txt"]
        assert await found(place, ".github/*.yml") == [".github/w.yml"]
        assert await found(place, "**/*.js") == ["src/d.js"]
        assert await found(place, "link/*.js") == []
        assert await found(place, "nowhere/at/all/*.js") == []

    _run(tmp_path, story)


def test_ls_knows_variables_but_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_text("")

    async def story(place):
        assert "x" in (await place.call("ls", path="$WHERE/sub")).content
        assert "x" in (await place.call("ls", path="${WHERE}/sub/")).content
        assert "hidden" not in (await place.call("ls", path="$MY_API_KEY")).content

    _run(tmp_path, story, env={"PATH": os.environ["PATH"], "WHERE": str(tmp_path), "MY_API_KEY": "hidden"})


def test_many_edits_in_a_long_file_give_up_in_time(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("some words in a line\n" * 100_000)
    limits = Limits(search_deadline_s=1.0)

    async def story(place):
        await place.call("view", file_path="long.txt")
        edits = [{"old_string": f"not there {number}", "new_string": "x"} for number in range(400)]
        result = await place.call("multiedit", file_path="long.txt", edits=edits)
        assert result.is_error
        assert "fewer at once" in result.content

    _run(tmp_path, story, limits=limits)


def test_a_skill_is_viewed_as_a_whole_and_named(tmp_path: Path) -> None:
    workspace, skills = tmp_path / "w", tmp_path / "skills"
    workspace.mkdir()
    (skills / "paint").mkdir(parents=True)
    head = "---\nname: paint\ndescription: How to paint.\n---\n"
    (skills / "paint" / "SKILL.md").write_text(head + "a line of some length, to fill the pages\n" * 6000 + "the end\n")
    (skills / "paint" / "notes.md").write_text("a line\n" * 300)

    async def story(place):
        place.readable = (skills,)
        result = await place.call("view", file_path=str(skills / "paint" / "SKILL.md"))
        assert not result.is_error, result.content
        assert "the end" in result.content
        assert result.metadata["resource_type"] == "skill"
        assert result.metadata["resource_name"] == "paint"
        assert result.metadata["resource_description"] == "How to paint."
        short = await place.call("view", file_path=str(skills / "paint" / "SKILL.md"), limit=2)
        assert "read on with offset 2" in short.content
        other = await place.call("view", file_path=str(skills / "paint" / "notes.md"))
        assert "read on with offset 200" in other.content
        assert "resource_type" not in other.metadata

    _run(workspace, story)
