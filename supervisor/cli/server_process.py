"""Find the process of a server on this machine: by its lock file, or by its socket."""

import json
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from protocol.address import UnixAddress

LOCK_MAX_BYTES = 65536
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The server that holds a runtime directory, as its lock file names it."""

    pid: int
    start_ticks: int
    listeners: tuple[str, ...] = ()


def read_owner(runtime_dir: Path) -> LockOwner | None:
    """Return the server that the lock file names, None when it names none. The process may have exited."""
    try:
        with (runtime_dir / "supervisor.lock").open("rb") as file:
            owner = json.loads(file.read(LOCK_MAX_BYTES))
        return LockOwner(int(owner["pid"]), int(owner["start_ticks"]), tuple(map(str, owner.get("listeners", ()))))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def listener_pid(address: UnixAddress) -> int | None:
    """Return the pid of the process that listens at a Unix socket, as the kernel reports it; None when none does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(address.path))
            pid: int = _CREDENTIALS.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except OSError:
            return None
    return pid or None


def is_server(pid: int) -> bool:
    """Return whether the command line of a process is that of a Bulkhead server."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return "serve" in words and ("supervisor" in words or any(Path(word).name == "bulkhead" for word in words[:2]))


def unit_of(pid: int) -> tuple[str, bool] | None:
    """Return the Bulkhead unit of systemd that a process belongs to, and whether a user's manager runs it, or None."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        path = line.rpartition(":")[2]
        for word in reversed(path.split("/")):
            if word.startswith("bulkhead") and word.endswith(".service"):
                return word, "/user@" in path
    return None
