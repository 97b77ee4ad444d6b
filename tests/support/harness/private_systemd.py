"""A private systemd in its own namespaces, running our unit files; nothing of it touches the host's manager."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.processes import Process, descendants, parent_of

UNITS = Path(__file__).parents[3] / "systemd"
INIT = Path("/lib/systemd/systemd")
STABLE_PATH = "/opt/bulkhead/bin/python"

BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
umount -R /sys/fs/cgroup || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env -i container=private PATH="$PATH" SYSTEMD_UNIT_PATH="$1" /lib/systemd/systemd --system \\
    --unit=boot.target --log-target=console --show-status=no
"""


class Manager:
    """Use as `async with`. `systemctl` talks to it; `root` is its file system as seen from outside."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._units = root / "units"
        self._log_path = root / "log"
        self._popen: subprocess.Popen[bytes] | None = None
        self.pid = 0

    async def __aenter__(self) -> "Manager":
        skip_unless_possible()
        self._write_units()
        names = ("--pid", "--mount", "--cgroup", "--uts", "--ipc")
        command = [
            "unshare",
            "--fork",
            *names,
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            BOOT,
            "boot",
            str(self._units),
        ]
        with self._log_path.open("wb") as log:
            self._popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        popen = self._popen

        def find() -> bool:
            if popen.poll() is not None:
                pytest.skip(f"needs a private systemd, which does not boot here: {self.log[-500:]}")
            below = [pid for pid in descendants(popen.pid) if parent_of(pid) == popen.pid]
            self.pid = below[0] if below else 0
            return self.pid != 0

        await eventually(find, what="a private systemd", state=lambda: self.log)
        await eventually(self._is_up, timeout_s=15.0, what="the private systemd is up", state=lambda: self.log)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._popen is not None:
            self._popen.kill()  # it ignores TERM; `--kill-child` takes the whole namespace along
            await asyncio.to_thread(self._popen.wait, 10)

    @property
    def log(self) -> str:
        """What systemd and its services wrote."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    @property
    def run(self) -> Path:
        """Its `/run`, from outside."""
        return Path(f"/proc/{self.pid}/root/run")

    async def systemctl(self, *words: str, check: bool = True) -> str:
        """Run systemctl inside; its output."""
        return await self.inside("systemctl", "--no-pager", *words, check=check)

    async def inside(self, *words: str, check: bool = True) -> str:
        """Run a command in the namespaces of the private systemd; its output."""
        command = ["nsenter", "-t", str(self.pid), "-a", *words]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}\n{self.log[-6000:]}"
        return done.stdout.strip()

    async def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return await self.systemctl("show", "--value", f"--property={name}", unit)

    async def kill_main(self, unit: str) -> None:
        """SIGKILL to the main process of a unit alone."""
        pid = await self.show(unit, "MainPID")
        await self.inside("kill", "-KILL", pid)

    def processes(self) -> list[int]:
        """The pids, as seen from outside, of everything that runs our code or was started by it."""
        return [pid for pid in descendants(self.pid) if "python" in _executable(pid) or "sleep" in _executable(pid)]

    def _write_units(self) -> None:
        self._units.mkdir()
        for unit in UNITS.glob("bulkhead*"):
            text = unit.read_text().replace(STABLE_PATH, sys.executable)
            (self._units / unit.name).write_text(text.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n", 1))
        for name in ("bulkhead.service", "bulkhead-workers.service"):
            folder = self._units / f"{name}.d"
            folder.mkdir()
            # Installed or not, the scripted model is the default.
            (folder / "home.conf").write_text("[Service]\nEnvironment=HOME=/run/home BULKHEAD_LOCAL_MODEL=0\n")
        (self._units / "boot.target").write_text("[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n")

    async def _is_up(self) -> bool:
        return await self.systemctl("is-active", "boot.target", check=False) == "active"


def skip_unless_possible() -> None:
    """A private systemd needs root, the tools, and a kernel that has cgroup2."""
    if os.getuid() != 0:
        pytest.skip("needs root: a private systemd lives in namespaces of its own")
    missing = [name for name in ("unshare", "nsenter", "systemctl") if shutil.which(name) is None]
    if missing or not INIT.exists():
        pytest.skip(f"needs systemd and its tools: {[*missing, INIT]}")
    if "cgroup2" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs cgroup2")


def outer_process(manager: Manager, inner_pid: int) -> Process:
    """The process that has `inner_pid` inside."""
    for pid in descendants(manager.pid):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("NSpid:") and line.split()[-1] == str(inner_pid):
                return Process(pid)
    raise AssertionError(f"no process has pid {inner_pid} inside")


def _executable(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
