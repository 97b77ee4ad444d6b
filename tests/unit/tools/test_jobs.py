"""Test background jobs: they run beside the turn, belong to one session, and end with all their processes."""

import asyncio
import os
from pathlib import Path

from protocol.limits import Limits
from tests.support.harness.tool_bench import bench
from worker.permissions.rules import Rules

LIMITS = Limits(background_wait_s=0.05, tool_term_grace_s=0.1, jobs_max=2)


async def _pid(path: Path) -> int:
    """Wait for the pid that a command writes to a file."""
    async with asyncio.timeout(10):
        while not path.exists() or not path.read_text().endswith("\n"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return int(path.read_text())


async def test_the_output_of_a_background_job_is_read_and_the_job_is_killed(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        started = await tools.bash("echo begun; sleep 1000 & echo $! >child; wait", run_in_background=True)
        assert started.metadata["background"] is True
        job = started.metadata["shell_id"]
        assert job in started.content
        output = await tools.call("job_output", shell_id=job.lower(), wait=False)
        assert output.content.startswith("Status: running")
        assert "begun" in output.content
        assert output.metadata["done"] is False
        child = tools.process(await _pid(tmp_path / "child"))
        assert (await tools.call("job_kill", shell_id=job)).content == f"Job {job} was ended."
        assert not child.is_alive
        output = await tools.call("job_output", shell_id=job, wait=True)
        assert output.content.startswith("Status: completed")
        assert "before it was finished" in output.content
        assert "already" in (await tools.call("job_kill", shell_id=job)).content


async def test_a_background_command_that_ends_at_once_has_an_ordinary_result(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=Limits()) as tools:
        result = await tools.bash("echo quick; exit 4", run_in_background=True)
        assert result.content == f"quick\nExit code 4\n\n<cwd>{tmp_path}</cwd>"
        assert "shell_id" not in result.metadata


async def test_a_long_command_is_moved_to_the_background(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with bench(tmp_path, limits=LIMITS) as tools:
        result = await tools.bash("read -r line <pipe; echo got $line", auto_background_after=1)
        assert "shell_id" in result.metadata
        with (tmp_path / "pipe").open("w") as pipe:
            pipe.write("it\n")
        output = await tools.call("job_output", shell_id=result.metadata["shell_id"], wait=True)
        assert output.content == "Status: completed\n\ngot it"


async def test_W_40_a_job_belongs_to_its_session(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        started = await tools.bash("sleep 1000", run_in_background=True)
        job = started.metadata["shell_id"]
        for tool, args in (("job_output", {"wait": False}), ("job_kill", {})):
            result = await tools.call(tool, "s2", shell_id=job, **args)
            assert result.is_error
            assert "this conversation has none" in result.content
        result = await tools.call("job_kill", shell_id="")
        assert result.is_error
        assert job in result.content


async def test_W_38_only_running_jobs_count_against_the_limit(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        first = await tools.bash("sleep 1000", run_in_background=True)
        await tools.bash("sleep 1000", run_in_background=True)
        full = await tools.bash("echo x")
        assert full.is_error
        assert "2 commands are already running" in full.content
        await tools.call("job_kill", shell_id=first.metadata["shell_id"])
        assert not (await tools.bash("echo x")).is_error


async def test_the_end_of_a_session_ends_its_jobs(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        job = await tools.bash("sleep 1000 & echo $! >pid; wait", run_in_background=True)
        await tools.call("bash", "s2", description="d", command="sleep 1000", run_in_background=True)
        child = tools.process(await _pid(tmp_path / "pid"))
        await tools.jobs.end_of_session("s1")
        assert not child.is_alive
        assert tools.jobs.running == 1
        assert (await tools.call("job_output", shell_id=job.metadata["shell_id"], wait=False)).is_error


async def test_a_cancel_ends_the_foreground_command_and_no_job(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        await tools.bash("sleep 1000", run_in_background=True)
        task = asyncio.create_task(tools.bash("echo $$ >pid; sleep 1000"))
        process = tools.process(await _pid(tmp_path / "pid"))
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert not process.is_alive
        assert tools.jobs.running == 1


async def test_the_output_kept_of_a_background_job_is_bounded(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        started = await tools.bash("yes | head -c 50000000; echo the end", run_in_background=True)
        job = started.metadata.get("shell_id")
        output = await tools.call("job_output", shell_id=job, wait=True) if job else started
        assert "the end" in output.content
        assert len(output.content) < 40_000


async def test_W_39_read_only_commands_need_no_permission_unless_they_follow_links_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "out").symlink_to("/etc")

    async with bench(tmp_path, rules=Rules(), limits=LIMITS) as tools:
        assert "hello" in (await tools.bash("cat a.txt | head -n 1")).content
        for command in ("cat out/passwd", "ls out", "cat a.txt > b.txt", "touch x"):
            result = await tools.bash(command)
            assert result.is_error, command
            assert result.stop_turn
        assert not (tmp_path / "b.txt").exists()
