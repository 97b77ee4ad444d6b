"""Test child processes: drained while they run, ended with their whole process tree (T01-T04, T06, T08)."""

import asyncio
import os
import resource
import signal
from pathlib import Path

import pytest

from protocol.base.process_identity import ProcessStat
from protocol.limits import Limits
from tests.support.harness.tool_bench import ToolBench, bench
from tests.support.processes import Process
from worker.processes import process_limit
from worker.processes.process_tree import ProcessTree

LIMITS = Limits(tool_term_grace_s=0.1, tool_pipe_grace_s=0.1)

DAEMON = """
import os, sys
read_end, write_end = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(sys.argv[1], "w") as file:
            file.write(str(os.getpid()) + chr(10))
        os.write(write_end, b"written")
        for fd in (0, 1, 2):
            os.close(fd)
        os.execve("/bin/sleep", ["sleep", "1000"], eval(sys.argv[2]))
    os._exit(0)
os.read(read_end, 1)
"""


async def _line_of(fifo: Path) -> str:
    """Return the line that a child writes into the named pipe."""
    return await asyncio.get_running_loop().run_in_executor(None, lambda: fifo.read_text().strip())


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _has_ended(pid: int) -> bool:
    """Return whether a process has exited and was reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def _cancelled_bash(tools: ToolBench, command: str, fifo: Path) -> tuple[list[Process], list[bool]]:
    """Run `command` until it has written its pids to `fifo`, then cancel it.

    Return the processes, and whether each was alive when the cancel reached the caller.
    """
    alive_at_cancel: list[bool] = []
    processes: list[Process] = []

    async def work() -> None:
        try:
            await tools.bash(command)
        except asyncio.CancelledError:
            alive_at_cancel.extend(process.is_alive for process in processes)
            raise

    task = asyncio.create_task(work())
    processes += [tools.process(int(pid)) for pid in (await _line_of(fifo)).split()]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return processes, alive_at_cancel


async def test_T01_processes_that_ignore_SIGTERM_have_ended_before_the_cancel_reaches_the_caller(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        fifo = _fifo(tmp_path / "fifo")
        command = f"trap '' TERM INT HUP; (trap '' TERM; while :; do sleep 1000; done) & echo $$ $! > {fifo}; wait"
        processes, alive = await _cancelled_bash(tools, command, fifo)
        assert alive == [False, False]
        assert all(_has_ended(process.pid) for process in processes)


async def test_T01_a_stopped_child_has_ended_before_the_cancel_reaches_the_caller(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        fifo = _fifo(tmp_path / "fifo")
        _, alive = await _cancelled_bash(tools, f"echo $$ > {fifo}; kill -STOP $$", fifo)
        assert alive == [False]


async def test_T01_a_second_cancel_does_not_leave_the_child_running(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=Limits(tool_term_grace_s=0.3)) as tools:
        fifo = _fifo(tmp_path / "fifo")
        task = asyncio.create_task(tools.bash(f"trap '' TERM; echo $$ > {fifo}; while :; do sleep 1000; done"))
        process = tools.process(int(await _line_of(fifo)))
        loop = asyncio.get_running_loop()
        task.cancel()
        loop.call_later(0.02, task.cancel)
        loop.call_later(0.05, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not process.is_alive


async def test_T01_a_command_that_never_ends_is_ended_at_its_deadline(tmp_path: Path) -> None:
    limits = Limits(tool_max_s=0.3, job_max_s=0.6, tool_term_grace_s=0.1)
    async with bench(tmp_path, limits=limits) as tools:
        result = await tools.bash("trap '' TERM; echo begun; while :; do sleep 1000; done")
        assert not result.is_error
        assert "begun" in result.content
        output = await tools.call("job_output", shell_id=result.metadata["shell_id"], wait=True)
        while not output.metadata["done"]:
            output = await tools.call("job_output", shell_id=result.metadata["shell_id"], wait=True)
        assert "ended because it took longer than 0.6 s" in output.content


async def test_T02_a_background_child_that_keeps_the_pipe_open_does_not_delay_the_result(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        result = await tools.bash("sleep 1000 & echo $!; echo done")
        pid, word = result.content.split("\n")[:2]
        assert word == "done"
        assert _has_ended(int(pid))


@pytest.mark.parametrize("environment", ["os.environ", "{}"], ids=["marked", "environment cleared"])
async def test_T03_a_daemon_after_setsid_and_double_fork_ends_with_its_tool(tmp_path: Path, environment: str) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    async with bench(tmp_path, limits=LIMITS) as tools:
        fifo = _fifo(tmp_path / "fifo")
        task = asyncio.create_task(tools.bash(f"python3 daemon.py {fifo} '{environment}'; sleep 1000"))
        daemon = tools.process(int(await _line_of(fifo)))
        assert daemon.is_alive
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not daemon.is_alive
        assert _has_ended(daemon.pid)


async def test_T03_a_daemon_ends_when_its_command_returns(tmp_path: Path) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    async with bench(tmp_path, limits=LIMITS) as tools:
        fifo = _fifo(tmp_path / "fifo")
        task = asyncio.create_task(tools.bash(f"python3 daemon.py {fifo} os.environ"))
        pid = int(await _line_of(fifo))
        await task
        assert _has_ended(pid)


async def test_T03_a_process_that_dies_between_the_scan_and_the_signal_is_reaped(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        original_scan = tools.children.scan
        dead: list[int] = []

        async def scan(leader: ProcessStat, marker: tuple[str, str]) -> ProcessTree:
            tree = await original_scan(leader, marker)
            for process in tree.members:
                dying = tools.process(process.pid)
                dying.send(signal.SIGKILL)
                await dying.gone()
                dead.append(process.pid)
            return tree

        tools.children.scan = scan  # type: ignore[method-assign]
        assert "begun" in (await tools.bash("sleep 1000 >/dev/null 2>&1 & echo begun")).content
        assert dead
        assert all(_has_ended(pid) for pid in dead)


async def test_an_unmarked_daemon_waits_for_the_last_tool_that_may_have_started_it(tmp_path: Path) -> None:
    """A daemon ended with the first tool might still be used by another session."""
    (tmp_path / "daemon.py").write_text(DAEMON)
    async with bench(tmp_path, limits=LIMITS) as tools:
        fifo = _fifo(tmp_path / "fifo")
        other = asyncio.create_task(tools.bash("sleep 1000"))
        task = asyncio.create_task(tools.bash(f"python3 daemon.py {fifo} '{{}}'"))
        daemon = tools.process(int(await _line_of(fifo)))
        await task
        assert daemon.is_alive
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other
        assert not daemon.is_alive


async def test_ending_one_tool_does_not_end_the_others(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        fifo = _fifo(tmp_path / "fifo")
        other = asyncio.create_task(tools.bash(f"echo $$ > {fifo}; read line < {fifo}; echo $line"))
        process = tools.process(int(await _line_of(fifo)))
        assert "short" in (await tools.bash("sleep 1000 >/dev/null 2>&1 & echo short")).content
        assert process.is_alive
        await asyncio.get_running_loop().run_in_executor(None, fifo.write_text, "answer\n")
        assert "answer" in (await other).content


async def test_T04_300_megabytes_are_drained_in_bounded_memory_while_timers_fire(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = await tools.bash("echo first; yes | head -c 300000000; echo last")
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        ticking.cancel()
        assert result.content.startswith("first\ny\n")
        assert "y\nlast\n\n<cwd>" in result.content
        assert len(result.content) < 31_000
        assert "bytes left out" in result.content
        assert grown_kb < 20_000
        assert ticks >= 3


async def test_T04_a_line_of_200_megabytes_and_binary_output_are_bounded(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        result = await tools.bash("head -c 200000000 /dev/zero | tr '\\0' x; head -c 1000 /dev/urandom >&2")
        assert "[0 lines, " in result.content
        assert len(result.content) < 40_000
        result.content.encode()


async def test_T06_a_command_has_empty_input_and_no_terminal(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        assert "read: 1" in (await tools.bash("read line; echo read: $?")).content
        assert "Exit code 1" in (await tools.bash("exec 3< /dev/tty")).content
        assert "Exit code 1" in (await tools.bash("$EDITOR file")).content
        assert "text" in (await tools.bash("echo text | $PAGER")).content
        assert "not a tty" in (await tools.bash("tty")).content


async def test_T08_a_command_inherits_three_descriptors_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULKHEAD_WORKSPACE_ID", "w1")  # as in a worker
    monkeypatch.setenv("BULKHEAD_OTHER", "canary")

    kept_open = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(kept_open, True)
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": "canary-path",
        "ANTHROPIC_API_KEY": "canary-key",
        "MY_PROVIDER_APIKEY": "canary-key",
        "GITHUB_TOKEN": "canary-token",
        "BULKHEAD_TOKEN": "canary-token",
        "NOTIFY_SOCKET": "canary-socket",
        "HARMLESS": "yes",
        "KEYBOARD": "also harmless",
    }
    async with bench(tmp_path, env=env) as tools:
        result = await tools.bash("ls /proc/self/fd; env")
    os.close(kept_open)
    assert result.content.startswith("0\n1\n2\n3\n")  # 3 is the descriptor of the directory that ls reads
    assert "canary" not in result.content
    child_env = dict(line.split("=", 1) for line in result.content.split("\n") if "=" in line)
    assert child_env["HARMLESS"] == "yes"
    assert child_env["KEYBOARD"] == "also harmless"
    assert child_env["BULKHEAD_WORKSPACE_ID"] == "w1"
    assert child_env["BULKHEAD_TOOL"]
    assert child_env["TERM"] == "xterm-256color"


async def test_close_ends_all_running_children(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=LIMITS) as tools:
        child = await tools.children.start(["sleep", "1000"], env={"PATH": os.environ["PATH"]}, cwd=tmp_path)
        process = tools.process(child.pid)
        await tools.children.close()
        assert not process.is_alive
        assert tools.children.count == 0


async def test_a_missing_program_leaks_no_child_and_no_descriptor(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with bench(tmp_path) as tools:
        with pytest.raises(FileNotFoundError):
            await tools.children.start(["/no/such/program"], env={}, cwd=tmp_path)
        assert tools.children.count == 0
    assert len(set(os.listdir("/proc/self/fd"))) <= len(before) + 4  # the descriptors of the event loop


async def test_a_child_reports_its_exit_code_or_its_signal(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        for script, code in (("exit 7", 7), ("kill -KILL $$", -signal.SIGKILL)):
            child = await tools.children.start(["bash", "-c", script], env={"PATH": os.environ["PATH"]}, cwd=tmp_path)
            try:
                assert await child.exited() == code
            finally:
                await child.end()


async def test_T05_the_process_limit_holds_without_the_thread_count_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread count of the machine does not grow when other processes end as many threads as a command starts."""
    monkeypatch.setattr(process_limit, "_LOAD", tmp_path / "nothing")
    monkeypatch.setattr(process_limit, "SURE_S", 0.05)

    async with bench(tmp_path, limits=Limits(tool_term_grace_s=0.1, tool_processes_max=10)) as tools:
        result = await tools.bash("for i in $(seq 20); do sleep 1000 & done; wait")
        assert "10 may run in this workspace" in result.content
