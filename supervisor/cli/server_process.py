"""Find the process of a running server: by lock file, by socket, by command line, by systemd unit."""

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
    """The server that holds a runtime directory, according to its lock file."""

    pid: int
    start_ticks: int
    listeners: tuple[str, ...] = ()


def read_owner(runtime_dir: Path) -> LockOwner | None:
    """Read who holds the runtime directory; None when the lock file names no process. The process may have ended."""
    try:
        with (runtime_dir / "supervisor.lock").open("rb") as file:
            owner = json.loads(file.read(LOCK_MAX_BYTES))
        return LockOwner(int(owner["pid"]), int(owner["start_ticks"]), tuple(map(str, owner.get("listeners", ()))))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def listener_pid(address: UnixAddress) -> int | None:
    """Ask the kernel which process listens at a Unix socket; None when there is none."""
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
    """Return the Bulkhead unit of a process and whether a user's systemd runs it; None when it has no such unit."""
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
