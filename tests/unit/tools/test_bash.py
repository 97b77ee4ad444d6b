"""bash: the shape of its results, and where the shell ended."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.harness.tool_bench import bench
from tests.support.run_coroutine import run


def _run(tmp_path, story, **more):
    async def main():
        async with bench(tmp_path, **more) as place:
            await story(place)

    run(main())


def test_output_then_errors_then_exit_code_then_directory(tmp_path: Path) -> None:
    async def story(place):
        result = await place.bash("echo out; echo err >&2; exit 3")
        assert not result.is_error
        assert result.content == f"out\nerr\nExit code 3\n\n<cwd>{tmp_path}</cwd>"
        metadata = dict(result.metadata)
        assert metadata.pop("start_time") <= metadata.pop("end_time")
        assert metadata == {
            "output": "out\nerr\nExit code 3",
            "description": "test",
            "working_directory": str(tmp_path),
        }

    _run(tmp_path, story)


def test_nothing_said_is_exactly_this_text(tmp_path: Path) -> None:
    async def story(place):
        assert (await place.bash("cd /")).content == "no output"

    _run(tmp_path, story)


@pytest.mark.parametrize(
    ("command", "ended_in"),
    [
        ("echo x; cd sub; exit 1", "sub"),
        ("cd sub && echo x", "sub"),
        ("(cd sub; echo x)", "."),
        ("set -e; cd sub; echo; false; cd ..", "sub"),
        ("set -x; cd sub", "sub"),
        ("cd link; echo x", "sub"),
        ("echo x; cd sub; kill -TERM $$", "sub"),
        ("echo x; set -C; set -u; cd sub; nounset=$nothing", "sub"),
    ],
)
def test_the_directory_is_where_the_shell_really_ended(tmp_path: Path, command: str, ended_in: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("sub")

    async def story(place):
        result = await place.bash(command)
        where = str(tmp_path / ended_in) if ended_in != "." else str(tmp_path)
        assert result.content.endswith(f"<cwd>{where}</cwd>")
        assert result.metadata["working_directory"] == where
        assert "pwd" not in result.content

    _run(tmp_path, story)


def test_each_call_is_a_fresh_shell(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()

    async def story(place):
        await place.bash("NAME=value; export NAME")
        assert (await place.bash("echo [$NAME] $#; pwd")).content.startswith(f"[] 0\n{tmp_path}\n")
        assert (await place.bash("pwd", working_dir="sub")).content.startswith(f"{tmp_path}/sub\n")

    _run(tmp_path, story)


def test_W_61_the_next_command_starts_where_the_last_one_of_the_session_ended(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()

    async def story(place):
        await place.bash("cd sub; echo x")
        assert (await place.bash("pwd")).content.startswith(f"{tmp_path}/sub\n")
        assert (await place.call("bash", "s2", description="d", command="pwd")).content.startswith(f"{tmp_path}\n")
        await place.bash("rmdir ../sub")
        assert (await place.bash("pwd")).content.startswith(f"{tmp_path}\n")

    _run(tmp_path, story)


def test_quotes_lines_and_comments_pass_unharmed(tmp_path: Path) -> None:
    async def story(place):
        command = "# a comment\necho 'it''s' \"$((1+1))\" `echo three` \\\n  four\ncat <<'END'\n$five\nEND\n"
        assert (await place.bash(command)).content.startswith("its 2 three four\n$five\n")

    _run(tmp_path, story)


def test_a_command_that_replaces_the_shell_or_its_trap_still_answers(tmp_path: Path) -> None:
    async def story(place):
        assert (await place.bash("exec echo replaced")).content == f"replaced\n\n<cwd>{tmp_path}</cwd>"
        assert (await place.bash("trap 'echo mine' EXIT; cd /")).content == f"mine\n\n<cwd>{tmp_path}</cwd>"

    _run(tmp_path, story)


def test_no_file_is_left_behind(tmp_path: Path) -> None:
    async def story(place):
        for command in ("cd /", "exec true", "kill -TERM $$", "kill -KILL $$", "if then"):
            await place.bash(command)
        assert os.listdir(tmp_path / "tmp") == []

    (tmp_path / "tmp").mkdir()
    _run(tmp_path, story, env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "tmp")})


async def test_what_a_killed_worker_left_behind_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    left = tmp_path / f"bulkhead-{ended.pid}-0123456789abcdef.cwd"
    kept = [tmp_path / f"bulkhead-{os.getppid()}-0123456789abcdef.cwd", tmp_path / "bulkhead-notes.cwd"]
    for path in (left, *kept):
        path.write_text("/tmp")

    async with bench(tmp_path / "w", env={"TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}) as place:
        await place.bash("true")
        assert not left.exists()
        assert all(path.exists() for path in kept)


def test_what_is_wrong_is_an_error_result(tmp_path: Path) -> None:
    async def story(place):
        for args, said in (
            ({"command": "  "}, "empty"),
            ({"command": "a\0b"}, "NUL"),
            ({"command": "true", "auto_background_after": 0}, "auto_background_after"),
            ({"command": "x" * 200_000}, "Argument list too long"),
            ({"command": "true", "working_dir": "nope"}, "does not exist"),
        ):
            result = await place.call("bash", description="d", **args)
            assert result.is_error
            assert said in result.content
        assert "syntax error" in (await place.bash("if then")).content

    _run(tmp_path, story)


def test_without_a_shell_it_says_so(tmp_path: Path) -> None:
    async def story(place):
        assert "bash is not on the PATH" in (await place.bash("true")).content

    _run(tmp_path, story, env={"PATH": "/nonexistent"})
