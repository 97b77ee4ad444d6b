"""Process identity: stat lines, handles, and the scan for a marker, with real processes."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.base.marker_scan import find_marked, process_ids
from protocol.base.process_identity import (
    ProcessHandle,
    boot_id,
    own_identity,
    own_start_ticks,
    parse_stat,
    read_stat,
    start_ticks,
)

NO_PID = 2**22 + 1  # above the highest pid of Linux
MARKER = "BULKHEAD_SCAN_TEST"


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


@given(name=st.binary(max_size=15).filter(lambda name: b"\0" not in name))
def test_a_stat_line_is_parsed_with_any_process_name(name: bytes) -> None:
    numbers = [str(field) for field in range(4, 53)]  # the value of each field is its number
    stat = parse_stat(b"7 (" + name + b") S " + " ".join(numbers).encode() + b"\n")
    assert (stat.pid, stat.parent, stat.group, stat.session) == (7, 4, 5, 6)
    assert (stat.start_ticks, stat.environment_start, stat.environment_end) == (22, 50, 51)
    assert not stat.is_dead
    assert not stat.is_kernel_thread


@pytest.mark.parametrize("line", [b"", b"7", b"7 (name", b"7 (name) S 1 2", b"7 (name) S " + b"x " * 50])
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        parse_stat(line)


def test_a_program_with_spaces_and_parentheses_in_its_name_is_identified(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    program = tmp_path / "a) S 1 (b"
    program.symlink_to(sleep)
    with subprocess.Popen([program, "60"], executable=program, start_new_session=True) as process:
        stat = read_stat(process.pid)
        process.kill()
    assert stat is not None
    assert (stat.pid, stat.parent, stat.session) == (process.pid, os.getpid(), process.pid)
    assert stat.start_ticks >= own_start_ticks() > 0


def test_a_process_can_read_its_own_identity() -> None:
    identity = own_identity()
    assert (identity.pid, identity.start_ticks, identity.boot_id) == (os.getpid(), start_ticks(os.getpid()), boot_id())
    assert identity.boot_id


def test_a_zombie_has_a_stat_line_but_no_start_time(sleeper: "subprocess.Popen[bytes]") -> None:
    ticks = start_ticks(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    stat = read_stat(sleeper.pid)
    assert stat is not None
    assert (stat.is_dead, stat.start_ticks) == (True, ticks)
    assert start_ticks(sleeper.pid) is None
    assert read_stat(NO_PID) is None


async def test_S11_a_handle_opens_only_for_the_right_identity(sleeper: "subprocess.Popen[bytes]") -> None:
    ticks = start_ticks(sleeper.pid)
    assert ticks is not None
    before = len(os.listdir("/proc/self/fd"))
    assert ProcessHandle.open(sleeper.pid, ticks + 1) is None
    assert ProcessHandle.open(NO_PID, ticks) is None
    assert len(os.listdir("/proc/self/fd")) == before
    handle = ProcessHandle.open(sleeper.pid, ticks)
    assert handle is not None
    handle.close()
    sleeper.kill()
    sleeper.wait()
    assert ProcessHandle.open(sleeper.pid, ticks) is None


async def test_the_end_of_a_process_wakes_all_waiting_tasks(sleeper: "subprocess.Popen[bytes]") -> None:
    handle = ProcessHandle.open(sleeper.pid, start_ticks(sleeper.pid) or 0)
    assert handle is not None
    with handle:
        assert not await handle.ended_within(0.01)
        waiting = [asyncio.create_task(handle.ended_within(5.0)) for _ in range(2)]
        handle.send(signal.SIGTERM)
        assert await asyncio.gather(*waiting) == [True, True]
        await handle.ended()
        sleeper.wait()
        handle.send(signal.SIGKILL)  # no effect on an exited process
    handle.close()
    await handle.ended()


def test_only_a_variable_that_equals_the_marker_counts() -> None:
    def start(env: dict[str, str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["sleep", "60"], env=env, start_new_session=True)

    value = f"scan{os.getpid()}"
    with start({MARKER: value}) as right, start({MARKER: value + "b"}) as longer, start({"X" + MARKER: value}) as other:
        try:
            assert find_marked(MARKER, value, pids=process_ids(), exec_wait_s=0.1) == [right.pid]
            assert find_marked(MARKER, value, pids=[longer.pid, other.pid, NO_PID], exec_wait_s=0.1) == []
        finally:
            for process in (right, longer, other):
                process.kill()


def test_a_process_without_environment_is_not_waited_for() -> None:
    with subprocess.Popen(["sleep", "60"], env={}, start_new_session=True) as process:
        try:
            # With the whole wait this test would run into its timeout.
            assert find_marked(MARKER, "x", pids=[process.pid], exec_wait_s=3600.0) == []
        finally:
            process.kill()
