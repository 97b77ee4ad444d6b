"""Background jobs: they go on beside the conversation, belong to it, and end with everything that they started."""

import asyncio
import os
from pathlib import Path

from protocol.limits import Limits
from tests.support.harness.tool_bench import bench
from tests.support.run_coroutine import run
from worker.permissions.rules import Rules

LIMITS = Limits(background_wait_s=0.05, tool_term_grace_s=0.1, jobs_max=2)


async def _pid(path: Path) -> int:
    """The pid that a command writes to a file, once it is there."""
    async with asyncio.timeout(10):
        while not path.exists() or not path.read_text().endswith("\n"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return int(path.read_text())


def _run(tmp_path, story, **more):
    async def main():
        async with bench(tmp_path, **{"limits": LIMITS, **more}) as place:
            await story(place)

    run(main())


def test_a_command_goes_to_the_background_and_is_read_and_ended(tmp_path: Path) -> None:
    async def story(place):
        begun = await place.bash("echo begun; sleep 1000 & echo $! >child; wait", run_in_background=True)
        assert begun.metadata["background"] is True
        job = begun.metadata["shell_id"]
        assert job in begun.content
        told = await place.call("job_output", shell_id=job.lower(), wait=False)
        assert told.content.startswith("Status: running")
        assert "begun" in told.content
        assert told.metadata["done"] is False
        child = place.process(await _pid(tmp_path / "child"))
        assert (await place.call("job_kill", shell_id=job)).content == f"Job {job} was ended."
        assert not child.is_alive
        told = await place.call("job_output", shell_id=job, wait=True)
        assert told.content.startswith("Status: completed")
        assert "before it was finished" in told.content
        assert "already" in (await place.call("job_kill", shell_id=job)).content

    _run(tmp_path, story)


def test_what_ends_at_once_is_told_at_once(tmp_path: Path) -> None:
    async def story(place):
        result = await place.bash("echo quick; exit 4", run_in_background=True)
        assert result.content == f"quick\nExit code 4\n\n<cwd>{tmp_path}</cwd>"
        assert "shell_id" not in result.metadata

    _run(tmp_path, story, limits=Limits())


def test_a_long_command_goes_to_the_background_by_itself(tmp_path: Path) -> None:
    async def story(place):
        result = await place.bash("read -r line <gate; echo got $line", auto_background_after=1)
        assert "shell_id" in result.metadata
        with (tmp_path / "gate").open("w") as gate:
            gate.write("it\n")
        told = await place.call("job_output", shell_id=result.metadata["shell_id"], wait=True)
        assert told.content == "Status: completed\n\ngot it"

    os.mkfifo(tmp_path / "gate")
    _run(tmp_path, story)


def test_W_40_a_job_belongs_to_its_session(tmp_path: Path) -> None:
    async def story(place):
        begun = await place.bash("sleep 1000", run_in_background=True)
        job = begun.metadata["shell_id"]
        for tool, args in (("job_output", {"wait": False}), ("job_kill", {})):
            result = await place.call(tool, "s2", shell_id=job, **args)
            assert result.is_error
            assert "this conversation has none" in result.content
        result = await place.call("job_kill", shell_id="")
        assert result.is_error
        assert job in result.content

    _run(tmp_path, story)


def test_W_38_only_running_jobs_count(tmp_path: Path) -> None:
    async def story(place):
        first = await place.bash("sleep 1000", run_in_background=True)
        await place.bash("sleep 1000", run_in_background=True)
        full = await place.bash("echo x")
        assert full.is_error
        assert "2 commands are already running" in full.content
        await place.call("job_kill", shell_id=first.metadata["shell_id"])
        assert not (await place.bash("echo x")).is_error

    _run(tmp_path, story)


def test_the_end_of_a_session_ends_its_jobs(tmp_path: Path) -> None:
    async def story(place):
        mine = await place.bash("sleep 1000 & echo $! >mine; wait", run_in_background=True)
        await place.call("bash", "s2", description="d", command="sleep 1000", run_in_background=True)
        child = place.process(await _pid(tmp_path / "mine"))
        await place.jobs.end_of_session("s1")
        assert not child.is_alive
        assert place.jobs.running == 1
        assert (await place.call("job_output", shell_id=mine.metadata["shell_id"], wait=False)).is_error

    _run(tmp_path, story)


def test_a_cancel_ends_a_foreground_command_and_leaves_jobs_alone(tmp_path: Path) -> None:
    async def story(place):
        await place.bash("sleep 1000", run_in_background=True)
        task = asyncio.create_task(place.bash("echo $$ >pid; sleep 1000"))
        process = place.process(await _pid(tmp_path / "pid"))
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert not process.is_alive
        assert place.jobs.running == 1

    _run(tmp_path, story)


def test_a_flood_in_the_background_is_bounded(tmp_path: Path) -> None:
    async def story(place):
        begun = await place.bash("yes | head -c 50000000; echo the end", run_in_background=True)
        job = begun.metadata.get("shell_id")
        told = await place.call("job_output", shell_id=job, wait=True) if job else begun
        assert "the end" in told.content
        assert len(told.content) < 40_000

    _run(tmp_path, story)


def test_W_39_reading_commands_need_no_permission_and_links_out_do(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "out").symlink_to("/etc")

    async def story(place):
        assert "hello" in (await place.bash("cat a.txt | head -n 1")).content
        for command in ("cat out/passwd", "ls out", "cat a.txt > b.txt", "touch x"):
            result = await place.bash(command)
            assert result.is_error, command
            assert result.stop_turn
        assert not (tmp_path / "b.txt").exists()

    _run(tmp_path, story, rules=Rules())
