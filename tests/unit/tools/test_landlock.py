"""Test Landlock with the real kernel: a confined process is restricted, the process that started it is not."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.processes.landlock import ABI_MIN, CHANGE, READ, Ruleset, abi

ORDINARY_USER = 65534


def version() -> int:
    """Return the Landlock version of this kernel, 0 without Landlock."""
    try:
        return abi()
    except OSError:
        return 0


pytestmark = pytest.mark.skipif(version() < ABI_MIN, reason=f"this kernel has no Landlock of version {ABI_MIN}")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@contextlib.contextmanager
def rules(writable: Path) -> Iterator[Ruleset]:
    """Make a ruleset that allows reading everything and writing one directory."""
    with Ruleset(version()) as ruleset:
        ruleset.allow(READ, [Path("/")])
        ruleset.allow(CHANGE, [writable, Path("/dev/null"), Path("/not/there")])
        yield ruleset


def sh(script: str, user: int | None = None) -> Callable[[], "subprocess.CompletedProcess[str]"]:
    """Return a function that runs a shell script, as another user when given."""
    return lambda: subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, timeout=20, user=user, group=user, check=False
    )


def test_a_confined_process_writes_only_to_allowed_directories(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("kept")
    with rules(inside) as ruleset:
        allowed = ruleset.start(sh(f"cd {inside} && mkdir a && echo x > a/b && mv a/b c && ln c d && rm c && cat d"))
        assert (allowed.stdout, allowed.stderr, allowed.returncode) == ("x\n", "", 0)
        for command in (
            "echo > new",
            "echo > kept",
            "rm kept",
            "mv kept k",
            f"mv kept {inside}",
            f"ln kept {inside}/k",
        ):
            assert ruleset.start(sh(f"cd {outside} && {command}")).returncode != 0, command
        assert ruleset.start(sh(f"mknod {inside}/device c 1 3")).returncode != 0
    assert (outside / "kept").read_text() == "kept"
    assert [path.name for path in outside.iterdir()] == ["kept"]


def test_the_starting_process_is_not_confined(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    with rules(inside) as ruleset:
        assert ruleset.start(sh(f"echo > {tmp_path}/a")).returncode != 0
    (tmp_path / "a").touch()
    assert sh(f"echo > {tmp_path}/b")().returncode == 0
    assert "NoNewPrivs:\t0" in Path("/proc/self/status").read_text()
    thread = threading.Thread(target=(tmp_path / "c").touch)
    thread.start()
    thread.join()
    assert (tmp_path / "c").exists()


def test_an_error_while_starting_is_raised_to_the_caller(tmp_path: Path) -> None:
    with rules(tmp_path) as ruleset, pytest.raises(FileNotFoundError):
        ruleset.start(lambda: subprocess.run(["/no/such/program"], check=False))
    with pytest.raises(OSError, match="Bad file descriptor"):
        ruleset.start(lambda: None)  # closed


def test_a_confined_process_cannot_gain_privileges(tmp_path: Path) -> None:
    with rules(tmp_path) as ruleset:
        status = ruleset.start(sh("cat /proc/self/status")).stdout
    assert "NoNewPrivs:\t1" in status
    [bounding] = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd")]
    if os.getuid() == 0:
        assert not bounding & (1 << 21 | 1 << 19 | 1 << 38), "CAP_SYS_ADMIN, CAP_SYS_PTRACE and CAP_PERFMON are dropped"


@pytest.mark.parametrize(
    "user", [None, pytest.param(ORDINARY_USER, marks=as_root)], ids=["this user", "an ordinary user"]
)
def test_a_confined_process_cannot_read_or_signal_other_processes(tmp_path: Path, user: int | None) -> None:
    """X09, T07. Each command succeeds without the rules and fails with them."""
    victim = subprocess.Popen(["/bin/sleep", "1000"], user=user, group=user, env={"CANARY": "yes"})
    try:
        commands = [f"grep -q CANARY /proc/{victim.pid}/environ", f"head -c 1 /proc/{victim.pid}/maps | grep -q ."]
        if version() >= 6:
            commands.append(f"kill -0 {victim.pid}")
        with rules(tmp_path) as ruleset:
            for command in commands:
                assert sh(command, user)().returncode == 0, command
                assert ruleset.start(sh(command, user)).returncode != 0, command
            own = ruleset.start(sh("sleep 1000 & kill -9 $! && grep -q PATH /proc/$$/environ", user))
            assert own.returncode == 0, own
    finally:
        victim.kill()
        victim.wait()


def test_python_works_when_confined(tmp_path: Path) -> None:
    script = "import tempfile, multiprocessing, subprocess; print(subprocess.check_output(['echo', 'ok']).decode())"
    with rules(tmp_path) as ruleset:
        done = ruleset.start(
            lambda: subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
            )
        )
    assert done.stdout.strip() == "ok", done
