"""The data directory's lock, with real processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from worker.store.lock import DataLock, Locked, own_start_ticks

HOLDER = """
import sys, pathlib
from worker.store.lock import DataLock
lock = DataLock.take(pathlib.Path(sys.argv[1]), generation=7, within_s=1)
if len(sys.argv) > 2:
    import subprocess
    child = subprocess.Popen(["sleep", "30"], close_fds=False, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
else:
    print("held", flush=True)
    sys.stdin.read()
"""


def test_D08_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Locked, match=rf"process {holder.pid} \(generation 7\)"):
            DataLock.take(tmp_path, generation=8, within_s=0.1)
        holder.kill()
    lock = DataLock.take(tmp_path, generation=8, within_s=0.5)
    assert json.loads((tmp_path / "bulkhead.lock").read_text())["start_ticks"] == own_start_ticks()
    lock.release()
    assert (tmp_path / "bulkhead.lock").exists()


def test_D09_a_child_of_a_dead_owner_does_not_hold_the_lock(tmp_path: Path) -> None:
    holder = subprocess.run([sys.executable, "-c", HOLDER, str(tmp_path), "child"], stdout=subprocess.PIPE, check=True)
    child = int(holder.stdout)
    try:
        DataLock.take(tmp_path, generation=2, within_s=0.5).release()
    finally:
        subprocess.run(["kill", "-9", str(child)], check=True)
