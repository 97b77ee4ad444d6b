"""A process of this machine, known by pid and start time: is it still that one, end it, wait for its end."""

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
    """What the lock file of a runtime directory says about the server that holds it."""

    pid: int
    start_ticks: int
    listeners: tuple[str, ...] = ()


def read_owner(runtime_dir: Path) -> LockOwner | None:
    """Who holds the runtime directory, as its lock file says; None when it says nobody. The process may be gone."""
    try:
        with (runtime_dir / "supervisor.lock").open("rb") as file:
            said = json.loads(file.read(LOCK_MAX_BYTES))
        return LockOwner(int(said["pid"]), int(said["start_ticks"]), tuple(map(str, said.get("listeners", ()))))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def listener_pid(address: UnixAddress) -> int | None:
    """Which process listens at a Unix socket, as the kernel says; None when nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(address.path))
            pid: int = _CREDENTIALS.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except OSError:
            return None
    return pid or None


def is_server(pid: int) -> bool:
    """Does its command line say that this is a server of ours?"""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return "serve" in words and ("supervisor" in words or any(Path(word).name == "bulkhead" for word in words[:2]))


def unit_of(pid: int) -> tuple[str, bool] | None:
    """The systemd unit that a process belongs to, and whether a user's manager runs it; None outside of ours."""
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
