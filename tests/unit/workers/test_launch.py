"""Adoption, records and the process sweep: no process is mistaken for another."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.ids import WorkspaceId
from protocol.worker_spec import MARKER, marker_value
from supervisor.launch import process_sweep
from supervisor.launch.adoption import AdoptionDecision, decide_adoption
from supervisor.launch.launcher import ExitReport, Record
from supervisor.launch.process_usage import measure_process
from supervisor.launch.records import RecordStore

SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def record(**changes: object) -> Record:
    values: dict[str, object] = {
        "workspace_id": WorkspaceId("w1"),
        "generation": 3,
        "pid": 4711,
        "start_ticks": 100,
        "boot_id": "this boot",
        "token": "secret",
        "started_wall": 1.0,
        "path": "/somewhere",
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "ticks", "decision"),
    [
        ({}, 100, AdoptionDecision.ADOPT),
        ({}, 101, AdoptionDecision.END),  # S11: the pid belongs to another process now
        ({}, None, AdoptionDecision.END),  # the process has exited
        ({"boot_id": "another boot"}, 100, AdoptionDecision.END),
        ({"pid": 0, "start_ticks": 0}, None, AdoptionDecision.END),  # S03: died between record and fork
    ],
)
def test_S11_a_process_is_adopted_only_by_its_identity(
    changes: dict[str, object], ticks: int | None, decision: AdoptionDecision
) -> None:
    assert decide_adoption(record(**changes), boot_id="this boot", start_ticks=ticks) is decision


def test_records_are_private_and_replaced_atomically(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(record())
    store.write(record(pid=5))
    (tmp_path / "broken.json").write_text("{")
    assert store.read_all() == [record(pid=5)]
    assert stat.S_IMODE((tmp_path / "w1.json").stat().st_mode) == 0o600
    store.remove(WorkspaceId("w1"))
    store.remove(WorkspaceId("w1"))
    assert list(tmp_path.iterdir()) == []


def test_S23_records_that_were_removed_are_written_again(tmp_path: Path) -> None:
    folder, spare = tmp_path / "state", tmp_path / "run"
    folder.mkdir()
    spare.mkdir()
    store = RecordStore(folder, spare=spare)
    store.write(record())
    store.adopted(record(workspace_id="w2", generation=4))
    assert store.restore() == 1, "the adopted one is only in memory"
    assert store.restore() == 0
    for path in folder.iterdir():
        path.unlink()
    assert store.restore() == 2
    store.remove(WorkspaceId("w1"))
    assert store.restore() == 0
    assert RecordStore(folder, spare=spare).read_all() == [record(workspace_id="w2", generation=4)]


def test_records_go_to_the_spare_folder_while_the_first_cannot_be_written(tmp_path: Path) -> None:
    folder, spare = tmp_path / "state", tmp_path / "run"
    spare.mkdir()
    store = RecordStore(folder, spare=spare)
    store.write(record())
    assert [path.name for path in spare.iterdir()] == ["w1.json"]
    folder.mkdir()
    store.write(record(generation=9))
    assert store.read_all() == [record(generation=9)], "the newest one counts"
    store.remove(WorkspaceId("w1"))
    assert [*folder.iterdir(), *spare.iterdir()] == []
    spare.rmdir()
    folder.rmdir()
    with pytest.raises(OSError, match="No such file"):
        store.write(record())


@pytest.mark.parametrize(
    ("report", "cause"),
    [
        (ExitReport(signal=9), "signal 9"),
        (ExitReport(code=0), "exit 0"),
        (ExitReport(code=10), "data directory is owned by another process"),
        (ExitReport(), "without a word"),
    ],
)
def test_each_exit_has_a_readable_cause(report: ExitReport, cause: str) -> None:
    assert report.cause == cause


def test_P08_a_sweep_ends_exactly_the_processes_with_the_marker() -> None:
    def start_marked(workspace_id: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, env={MARKER: workspace_id}, start_new_session=True)

    own_id = f"sweep{os.getpid()}"  # unique on this machine
    with start_marked(own_id) as marked, start_marked(own_id) as kept, start_marked(own_id + "b") as neighbour:
        try:
            assert process_sweep.sweep(own_id, keep={kept.pid}, timeout_s=5.0) == 1
            assert marked.wait() == -signal.SIGKILL
            assert process_sweep.marked(own_id) == [kept.pid]
            assert process_sweep.marked(own_id + "b") == [neighbour.pid]
        finally:
            kept.kill()
            neighbour.kill()


def test_S22_a_sweep_leaves_the_processes_of_another_state_directory_alone() -> None:
    workspace_id = f"owner{os.getpid()}"
    own, other = marker_value(workspace_id, "aaaa0001"), marker_value(workspace_id, "bbbb0002")
    with (
        subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, env={MARKER: own}) as ours,
        subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, env={MARKER: other}) as theirs,
    ):
        try:
            assert process_sweep.sweep(own, keep=(), timeout_s=5.0) == 1
            assert ours.wait() == -signal.SIGKILL
            assert theirs.poll() is None
        finally:
            theirs.kill()


def test_P08_a_process_during_an_exec_is_found_too() -> None:
    """During an exec the environment is empty for a moment; about one scan in fourteen hits that moment."""
    workspace_id = f"exec{os.getpid()}"
    exec_forever = 'exec sh -c "$0" "$0"'
    with subprocess.Popen(
        ["sh", "-c", exec_forever, exec_forever], env={MARKER: workspace_id, "PATH": os.environ["PATH"]}
    ) as process:
        try:
            assert all(process_sweep.marked(workspace_id) == [process.pid] for _ in range(200))
            assert process_sweep.sweep(workspace_id, keep=(), timeout_s=5.0) == 1
            assert process.wait() == -signal.SIGKILL
        finally:
            process.kill()


def test_usage_is_measured_only_for_a_living_process() -> None:
    usage = measure_process(os.getpid(), True)
    assert usage is not None
    assert usage.uss_bytes is not None
    assert 0 < usage.uss_bytes <= usage.rss_bytes
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert measure_process(child.pid, False) is None
