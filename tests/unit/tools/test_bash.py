"""Test the bash tool: the format of its results, and the directory in which the next command starts."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.harness.tool_bench import bench


async def test_a_result_holds_output_errors_exit_code_and_directory_in_this_order(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        result = await tools.bash("echo out; echo err >&2; exit 3")
        assert not result.is_error
        assert result.content == f"out\nerr\nExit code 3\n\n<cwd>{tmp_path}</cwd>"
        metadata = dict(result.metadata)
        assert metadata.pop("start_time") <= metadata.pop("end_time")
        assert metadata == {
            "output": "out\nerr\nExit code 3",
            "description": "test",
            "working_directory": str(tmp_path),
        }


async def test_the_result_of_a_command_without_output_is_no_output(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        assert (await tools.bash("cd /")).content == "no output"


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
async def test_the_reported_directory_is_the_one_in_which_the_shell_ended(
    tmp_path: Path, command: str, ended_in: str
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("sub")

    async with bench(tmp_path) as tools:
        result = await tools.bash(command)
        directory = str(tmp_path / ended_in) if ended_in != "." else str(tmp_path)
        assert result.content.endswith(f"<cwd>{directory}</cwd>")
        assert result.metadata["working_directory"] == directory
        assert "pwd" not in result.content


async def test_each_call_starts_a_new_shell(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()

    async with bench(tmp_path) as tools:
        await tools.bash("NAME=value; export NAME")
        assert (await tools.bash("echo [$NAME] $#; pwd")).content.startswith(f"[] 0\n{tmp_path}\n")
        assert (await tools.bash("pwd", working_dir="sub")).content.startswith(f"{tmp_path}/sub\n")


async def test_W_61_the_next_command_starts_where_the_previous_one_of_the_session_ended(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()

    async with bench(tmp_path) as tools:
        await tools.bash("cd sub; echo x")
        assert (await tools.bash("pwd")).content.startswith(f"{tmp_path}/sub\n")
        assert (await tools.call("bash", "s2", description="d", command="pwd")).content.startswith(f"{tmp_path}\n")
        await tools.bash("rmdir ../sub")
        assert (await tools.bash("pwd")).content.startswith(f"{tmp_path}\n")


async def test_quotes_line_breaks_and_comments_reach_the_shell_unchanged(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        command = "# a comment\necho 'it''s' \"$((1+1))\" `echo three` \\\n  four\ncat <<'END'\n$five\nEND\n"
        assert (await tools.bash(command)).content.startswith("its 2 three four\n$five\n")


async def test_a_command_that_replaces_the_shell_or_its_exit_trap_still_has_a_result(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        assert (await tools.bash("exec echo replaced")).content == f"replaced\n\n<cwd>{tmp_path}</cwd>"
        assert (await tools.bash("trap 'echo trapped' EXIT; cd /")).content == f"trapped\n\n<cwd>{tmp_path}</cwd>"


async def test_the_temporary_file_of_a_command_is_always_removed(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    async with bench(tmp_path, env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "tmp")}) as tools:
        for command in ("cd /", "exec true", "kill -TERM $$", "kill -KILL $$", "if then"):
            await tools.bash(command)
        assert os.listdir(tmp_path / "tmp") == []


async def test_temporary_files_of_dead_workers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    stale = tmp_path / f"bulkhead-{ended.pid}-0123456789abcdef.cwd"
    kept = [tmp_path / f"bulkhead-{os.getppid()}-0123456789abcdef.cwd", tmp_path / "bulkhead-notes.cwd"]
    for path in (stale, *kept):
        path.write_text("/tmp")

    async with bench(tmp_path / "w", env={"TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}) as tools:
        await tools.bash("true")
        assert not stale.exists()
        assert all(path.exists() for path in kept)


async def test_an_invalid_call_is_an_error_result(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        for args, error in (
            ({"command": "  "}, "empty"),
            ({"command": "a\0b"}, "NUL"),
            ({"command": "true", "auto_background_after": 0}, "auto_background_after"),
            ({"command": "x" * 200_000}, "Argument list too long"),
            ({"command": "true", "working_dir": "nope"}, "does not exist"),
        ):
            result = await tools.call("bash", description="d", **args)
            assert result.is_error
            assert error in result.content
        assert "syntax error" in (await tools.bash("if then")).content


async def test_a_missing_shell_is_named_in_the_error(tmp_path: Path) -> None:
    async with bench(tmp_path, env={"PATH": "/nonexistent"}) as tools:
        assert "bash is not on the PATH" in (await tools.bash("true")).content
