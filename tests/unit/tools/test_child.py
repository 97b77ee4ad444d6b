"""Children: drained while they run, ended with their whole tree, whatever they do against it (T01-T04, T06, T08)."""

import asyncio
import os
import resource
import signal

import pytest

from protocol.limits import Limits
from tests.support.harness.tool_bench import ToolBench, bench
from tests.support.processes import Process
from tests.support.run_coroutine import run
from worker.processes import process_limit

LIMITS = Limits(tool_term_grace_s=0.1, tool_pipe_grace_s=0.1)

DAEMON = """
import os, sys
told, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(sys.argv[1], "w") as file:
            file.write(str(os.getpid()) + chr(10))
        os.write(tell, b"written")
        for fd in (0, 1, 2):
            os.close(fd)
        os.execve("/bin/sleep", ["sleep", "1000"], eval(sys.argv[2]))
    os._exit(0)
os.read(told, 1)
"""


async def _line_of(fifo):
    """The line that a child writes into the named pipe."""
    return await asyncio.get_running_loop().run_in_executor(None, lambda: fifo.read_text().strip())


def _fifo(path):
    os.mkfifo(path)
    return path


def _has_ended(pid: int) -> bool:
    """Return whether it exited and was reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def _cancelled_bash(place: ToolBench, command: str, fifo) -> tuple[list[Process], list[bool]]:
    """Run `command` until it has written its pids to `fifo`, cancel, and look at the pids when the cancel arrives."""
    alive_at_cancel: list[bool] = []
    processes: list[Process] = []

    async def work():
        try:
            await place.bash(command)
        except asyncio.CancelledError:
            alive_at_cancel.extend(process.is_alive for process in processes)
            raise

    task = asyncio.create_task(work())
    processes += [place.process(int(pid)) for pid in (await _line_of(fifo)).split()]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return processes, alive_at_cancel


def test_T01_what_ignores_TERM_and_runs_for_ever_is_gone_before_the_cancel_is_seen(tmp_path):
    async def main():
        async with bench(tmp_path, limits=LIMITS) as place:
            fifo = _fifo(tmp_path / "fifo")
            command = f"trap '' TERM INT HUP; (trap '' TERM; while :; do sleep 1000; done) & echo $$ $! > {fifo}; wait"
            processes, alive = await _cancelled_bash(place, command, fifo)
            assert alive == [False, False]
            assert all(_has_ended(process.pid) for process in processes)

    run(main())


def test_T01_a_stopped_child_is_gone_too(tmp_path):
    async def main():
        async with bench(tmp_path, limits=LIMITS) as place:
            fifo = _fifo(tmp_path / "fifo")
            _, alive = await _cancelled_bash(place, f"echo $$ > {fifo}; kill -STOP $$", fifo)
            assert alive == [False]

    run(main())


def test_T01_a_second_cancel_does_not_let_the_child_live(tmp_path):
    async def main():
        async with bench(tmp_path, limits=Limits(tool_term_grace_s=0.3)) as place:
            fifo = _fifo(tmp_path / "fifo")
            task = asyncio.create_task(place.bash(f"trap '' TERM; echo $$ > {fifo}; while :; do sleep 1000; done"))
            process = place.process(int(await _line_of(fifo)))
            loop = asyncio.get_running_loop()
            task.cancel()
            loop.call_later(0.02, task.cancel)
            loop.call_later(0.05, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not process.is_alive

    run(main())


def test_T01_the_deadline_ends_what_runs_for_ever(tmp_path):
    async def main():
        limits = Limits(tool_max_s=0.3, job_max_s=0.6, tool_term_grace_s=0.1)
        async with bench(tmp_path, limits=limits) as place:
            result = await place.bash("trap '' TERM; echo begun; while :; do sleep 1000; done")
            assert not result.is_error
            assert "begun" in result.content
            told = await place.call("job_output", shell_id=result.metadata["shell_id"], wait=True)
            while not told.metadata["done"]:
                told = await place.call("job_output", shell_id=result.metadata["shell_id"], wait=True)
            assert "ended because it took longer than 0.6 s" in told.content

    run(main())


def test_T02_a_background_child_that_keeps_the_pipe_does_not_hold_up_the_result(tmp_path):
    async def main():
        async with bench(tmp_path, limits=LIMITS) as place:
            result = await place.bash("sleep 1000 & echo $!; echo done")
            pid, word = result.content.split("\n")[:2]
            assert word == "done"
            assert _has_ended(int(pid))

    run(main())


@pytest.mark.parametrize("environment", ["os.environ", "{}"], ids=["marked", "environment cleared"])
def test_T03_a_daemon_after_setsid_and_double_fork_ends_with_its_tool(tmp_path, environment):
    async def main():
        (tmp_path / "daemon.py").write_text(DAEMON)
        async with bench(tmp_path, limits=LIMITS) as place:
            fifo = _fifo(tmp_path / "fifo")
            task = asyncio.create_task(place.bash(f"python3 daemon.py {fifo} '{environment}'; sleep 1000"))
            daemon = place.process(int(await _line_of(fifo)))
            assert daemon.is_alive
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not daemon.is_alive
            assert _has_ended(daemon.pid)

    run(main())


def test_T03_a_daemon_ends_also_when_the_command_just_returns(tmp_path):
    async def main():
        (tmp_path / "daemon.py").write_text(DAEMON)
        async with bench(tmp_path, limits=LIMITS) as place:
            fifo = _fifo(tmp_path / "fifo")
            task = asyncio.create_task(place.bash(f"python3 daemon.py {fifo} os.environ"))
            pid = int(await _line_of(fifo))
            await task
            assert _has_ended(pid)

    run(main())


def test_T03_what_dies_between_the_look_and_the_signal_is_collected_too(tmp_path):
    async def main():
        async with bench(tmp_path, limits=LIMITS) as place:
            look = place.children.scan
            dead = []

            async def scan(leader, marker):
                tree = await look(leader, marker)
                for process in tree.members:
                    dying = place.process(process.pid)
                    dying.send(signal.SIGKILL)
                    await dying.gone()
                    dead.append(process.pid)
                return tree

            place.children.scan = scan
            assert "begun" in (await place.bash("sleep 1000 >/dev/null 2>&1 & echo begun")).content
            assert dead
            assert all(_has_ended(pid) for pid in dead)

    run(main())


def test_an_unmarked_daemon_waits_for_the_last_tool_that_may_have_started_it(tmp_path):
    """Ending it with the first one could end what a neighbouring session still uses."""

    async def main():
        (tmp_path / "daemon.py").write_text(DAEMON)
        async with bench(tmp_path, limits=LIMITS) as place:
            fifo = _fifo(tmp_path / "fifo")
            neighbour = asyncio.create_task(place.bash("sleep 1000"))
            task = asyncio.create_task(place.bash(f"python3 daemon.py {fifo} '{{}}'"))
            daemon = place.process(int(await _line_of(fifo)))
            await task
            assert daemon.is_alive
            neighbour.cancel()
            with pytest.raises(asyncio.CancelledError):
                await neighbour
            assert not daemon.is_alive

    run(main())


def test_ending_one_tool_leaves_the_others_alone(tmp_path):
    async def main():
        async with bench(tmp_path, limits=LIMITS) as place:
            fifo = _fifo(tmp_path / "fifo")
            neighbour = asyncio.create_task(place.bash(f"echo $$ > {fifo}; read line < {fifo}; echo $line"))
            process = place.process(int(await _line_of(fifo)))
            assert "short" in (await place.bash("sleep 1000 >/dev/null 2>&1 & echo short")).content
            assert process.is_alive
            await asyncio.get_running_loop().run_in_executor(None, fifo.write_text, "answer\n")
            assert "answer" in (await neighbour).content

    run(main())


def test_T04_300_megabytes_are_drained_in_bounded_memory_while_timers_fire(tmp_path):
    async def main():
        async with bench(tmp_path) as place:
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.01)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            result = await place.bash("echo first; yes | head -c 300000000; echo last")
            grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            ticking.cancel()
            assert result.content.startswith("first\ny\n")
            assert "y\nlast\n\n<cwd>" in result.content
            assert len(result.content) < 31_000
            assert "bytes left out" in result.content
            assert grown_kb < 20_000
            assert ticks >= 3

    run(main())


def test_T04_one_line_of_200_megabytes_and_binary(tmp_path):
    async def main():
        async with bench(tmp_path) as place:
            result = await place.bash("head -c 200000000 /dev/zero | tr '\\0' x; head -c 1000 /dev/urandom >&2")
            assert "[0 lines, " in result.content
            assert len(result.content) < 40_000
            result.content.encode()

    run(main())


def test_T06_input_is_empty_and_there_is_no_terminal(tmp_path):
    async def main():
        async with bench(tmp_path) as place:
            assert "read: 1" in (await place.bash("read line; echo read: $?")).content
            assert "Exit code 1" in (await place.bash("exec 3< /dev/tty")).content
            assert "Exit code 1" in (await place.bash("$EDITOR file")).content
            assert "text" in (await place.bash("echo text | $PAGER")).content
            assert "not a tty" in (await place.bash("tty")).content

    run(main())


def test_T08_only_three_descriptors_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("BULKHEAD_WORKSPACE_ID", "w1")  # as in a worker
    monkeypatch.setenv("BULKHEAD_OTHER", "canary")

    async def main():
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
        async with bench(tmp_path, env=env) as place:
            result = await place.bash("ls /proc/self/fd; env")
        os.close(kept_open)
        assert result.content.startswith("0\n1\n2\n3\n")  # 3 is the directory that ls reads
        assert "canary" not in result.content
        shown = dict(line.split("=", 1) for line in result.content.split("\n") if "=" in line)
        assert shown["HARMLESS"] == "yes"
        assert shown["KEYBOARD"] == "also harmless"
        assert shown["BULKHEAD_WORKSPACE_ID"] == "w1"
        assert shown["BULKHEAD_TOOL"]
        assert shown["TERM"] == "xterm-256color"

    run(main())


def test_close_ends_what_still_runs(tmp_path):
    async def main():
        async with bench(tmp_path, limits=LIMITS) as place:
            child = await place.children.start(["sleep", "1000"], env={"PATH": os.environ["PATH"]}, cwd=tmp_path)
            process = place.process(child.pid)
            await place.children.close()
            assert not process.is_alive
            assert place.children.count == 0

    run(main())


def test_a_program_that_is_not_there_leaves_nothing(tmp_path):
    async def main():
        before = set(os.listdir("/proc/self/fd"))
        async with bench(tmp_path) as place:
            with pytest.raises(FileNotFoundError):
                await place.children.start(["/no/such/program"], env={}, cwd=tmp_path)
            assert place.children.count == 0
        assert len(set(os.listdir("/proc/self/fd"))) <= len(before) + 4  # the loop's own

    run(main())


def test_exit_codes_and_signals(tmp_path):
    async def main():
        async with bench(tmp_path) as place:
            for script, code in (("exit 7", 7), ("kill -KILL $$", -signal.SIGKILL)):
                child = await place.children.start(
                    ["bash", "-c", script], env={"PATH": os.environ["PATH"]}, cwd=tmp_path
                )
                try:
                    assert await child.exited() == code
                finally:
                    await child.end()

    run(main())


def test_T05_a_crowd_is_found_also_where_the_machine_tells_nothing(tmp_path, monkeypatch):
    """As when others end as many threads as a command begins."""
    monkeypatch.setattr(process_limit, "_LOAD", tmp_path / "nothing")
    monkeypatch.setattr(process_limit, "SURE_S", 0.05)

    async def main():
        async with bench(tmp_path, limits=Limits(tool_term_grace_s=0.1, tool_processes_max=10)) as place:
            result = await place.bash("for i in $(seq 20); do sleep 1000 & done; wait")
            assert "10 may run in this workspace" in result.content

    run(main())
