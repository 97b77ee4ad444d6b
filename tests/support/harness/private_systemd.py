"""Run the unit files under a private systemd in namespaces of its own, without touching the manager of the host."""

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


class PrivateSystemd:
    """Boot a private systemd and control it. Use as `async with`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._units = root / "units"
        self._log_path = root / "log"
        self._popen: subprocess.Popen[bytes] | None = None
        self.pid = 0

    async def __aenter__(self) -> "PrivateSystemd":
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

        def find_init() -> bool:
            if popen.poll() is not None:
                pytest.skip(f"needs a private systemd, which does not boot here: {self.log[-500:]}")
            children = [pid for pid in descendants(popen.pid) if parent_of(pid) == popen.pid]
            self.pid = children[0] if children else 0
            return self.pid != 0

        await eventually(find_init, what="a private systemd", state=lambda: self.log)
        await eventually(self._is_up, timeout_s=15.0, what="the private systemd is up", state=lambda: self.log)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._popen is not None:
            self._popen.kill()  # it ignores TERM; `--kill-child` ends the whole namespace
            await asyncio.to_thread(self._popen.wait, 10)

    @property
    def log(self) -> str:
        """Output of systemd and its services."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    @property
    def run(self) -> Path:
        """Its `/run`, as a path on the host."""
        return Path(f"/proc/{self.pid}/root/run")

    async def systemctl(self, *words: str, check: bool = True) -> str:
        """Run systemctl inside; return its output."""
        return await self.inside("systemctl", "--no-pager", *words, check=check)

    async def inside(self, *words: str, check: bool = True) -> str:
        """Run a command in the namespaces of the private systemd; return its output."""
        command = ["nsenter", "-t", str(self.pid), "-a", *words]
        result = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or result.returncode == 0, f"{words}: {result.stdout}{result.stderr}\n{self.log[-6000:]}"
        return result.stdout.strip()

    async def show(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return await self.systemctl("show", "--value", f"--property={name}", unit)

    async def kill_main(self, unit: str) -> None:
        """Send SIGKILL to the main process of a unit only."""
        pid = await self.show(unit, "MainPID")
        await self.inside("kill", "-KILL", pid)

    def processes(self) -> list[int]:
        """Return the host pids of the server, its workers and the programs they started (Python or `sleep`)."""
        return [pid for pid in descendants(self.pid) if "python" in _executable(pid) or "sleep" in _executable(pid)]

    def _write_units(self) -> None:
        self._units.mkdir()
        for unit in UNITS.glob("bulkhead*"):
            text = unit.read_text().replace(STABLE_PATH, sys.executable)
            (self._units / unit.name).write_text(text.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n", 1))
        for name in ("bulkhead.service", "bulkhead-workers.service"):
            folder = self._units / f"{name}.d"
            folder.mkdir()
            # The scripted model is the default, whether or not a local model is installed.
            (folder / "home.conf").write_text("[Service]\nEnvironment=HOME=/run/home BULKHEAD_LOCAL_MODEL=0\n")
        (self._units / "boot.target").write_text("[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n")

    async def _is_up(self) -> bool:
        return await self.systemctl("is-active", "boot.target", check=False) == "active"


def skip_unless_possible() -> None:
    """Skip the test without root, the systemd tools or cgroup2."""
    if os.getuid() != 0:
        pytest.skip("needs root: a private systemd runs in namespaces of its own")
    missing = [name for name in ("unshare", "nsenter", "systemctl") if shutil.which(name) is None]
    if missing or not INIT.exists():
        pytest.skip(f"needs systemd and its tools: {[*missing, INIT]}")
    if "cgroup2" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs cgroup2")


def outer_process(manager: PrivateSystemd, inner_pid: int) -> Process:
    """Return the process whose pid inside the namespace is `inner_pid`."""
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
