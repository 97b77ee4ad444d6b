"""Test the lock of the data directory with real processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.base.process_identity import own_start_ticks
from worker.store.lock import DataLock, Locked

HOLDER = """
import sys, pathlib
from worker.store.lock import DataLock
lock = DataLock.take(pathlib.Path(sys.argv[1]), generation=7, timeout_s=1)
if len(sys.argv) > 2:
    import subprocess
    child = subprocess.Popen(["sleep", "30"], close_fds=False, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
else:
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_D08_a_second_owner_is_refused_with_the_identity_of_the_first(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(Locked, match=rf"process {holder.pid} \(generation 7\)"):
            DataLock.take(tmp_path, generation=8, timeout_s=0.1)
        holder.kill()
    lock = DataLock.take(tmp_path, generation=8, timeout_s=0.5)
    assert json.loads((tmp_path / "bulkhead.lock").read_text())["start_ticks"] == own_start_ticks()
    lock.release()
    assert (tmp_path / "bulkhead.lock").exists()


def test_D09_a_child_of_a_dead_owner_does_not_hold_the_lock(tmp_path: Path) -> None:
    holder = subprocess.run([sys.executable, "-c", HOLDER, str(tmp_path), "child"], stdout=subprocess.PIPE, check=True)
    child = int(holder.stdout)
    try:
        DataLock.take(tmp_path, generation=2, timeout_s=0.5).release()
    finally:
        subprocess.run(["kill", "-9", str(child)], check=True)


def test_D11_a_file_system_without_locks_is_refused(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace, which lets a system call fail")
    command = [strace, "-f", "-qq", "-o", os.devnull, "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK"]
    holder = subprocess.run(
        [*command, sys.executable, "-c", HOLDER, str(tmp_path)], input="", capture_output=True, text=True, check=False
    )
    if "ptrace" in holder.stderr:
        pytest.skip(f"needs the privilege to trace: {holder.stderr.strip()}")
    assert "NoLocks: cannot lock data directory" in holder.stderr
    assert "locked" not in holder.stdout


@pytest.mark.parametrize("has_file", [True, False], ids=["file", "no file"])
def test_D03_a_read_only_directory_is_locked_too(tmp_path: Path, has_file: bool) -> None:
    """Lock as another user, because file modes do not bind root."""
    if os.geteuid() != 0:
        pytest.skip("needs the privilege to become another user")
    if has_file:
        (tmp_path / "bulkhead.lock").write_text("{}")
    tmp_path.chmod(0o555)
    with _as_another_user(tmp_path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"locked\n"
        with _as_another_user(tmp_path) as second:
            assert second.communicate(b"")[0] == b"Locked\n"
        first.communicate(b"")


def _as_another_user(path: Path) -> "subprocess.Popen[bytes]":
    """Start a process that holds the lock until its input ends, or prints why it could not take it."""
    script = """
import os, sys, pathlib
from worker.store.lock import DataLock, Locked
os.chdir(sys.argv[1])  # the new user may not enter the parent directories
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
try:
    lock = DataLock.take(pathlib.Path("."), generation=1, timeout_s=0.1)
except Locked:
    print("Locked", flush=True)
else:
    print("locked", flush=True)
    sys.stdin.read()
"""
    return subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
