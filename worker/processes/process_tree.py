"""Which processes belong to a tool's child: found in /proc by session, marker and descent (T03). Blocking: for threads.

A daemon may leave the session (`setsid`) and its parent (double fork), but it carries the marker in its environment;
one that cleared its environment as well becomes a child of ours, because the worker is a subreaper.
"""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LOOKS_MAX = 32
EXEC_S = 0.002
"""How long to look away from a process that has no environment; most have it by then."""


@dataclass(frozen=True)
class Process:
    """One line of /proc. `start_ticks` with the pid is its identity: pids are used again (S11)."""

    pid: int
    parent: int
    group: int
    session: int
    start_ticks: int
    is_zombie: bool


@dataclass(frozen=True)
class Tree:
    """What a scan found. `orphans` are children of ours that nobody can say who started: they have no marker."""

    members: tuple[Process, ...]
    orphans: tuple[Process, ...]


def read_process(pid: int) -> Process | None:
    """The process `pid`, or None when it is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold blanks and brackets
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        start_ticks=int(fields[19]),
        is_zombie=fields[0] in ("Z", "X"),
    )


def find_tree(leader: Process, marker: str, keeper_pid: int) -> Tree:
    """Every process that came from `leader`, itself left out, and the orphans that may have."""
    needle = marker.encode()
    keeper = read_process(keeper_pid)
    own_session = keeper.session if keeper else 0
    young = [p for p in _processes() if p.start_ticks >= leader.start_ticks and p.pid not in (leader.pid, keeper_pid)]
    known = {p.pid for p in young if leader.pid in (p.session, p.group) or _carries(p.pid, needle)}
    grew = True
    while grew:  # descendants, also of processes that dropped the marker
        more = {p.pid for p in young if p.pid not in known and p.parent in known | {leader.pid}}
        known |= more
        grew = bool(more)
    members = tuple(p for p in young if p.pid in known)
    orphans = tuple(
        p for p in young if p.pid not in known and p.parent == keeper_pid and p.session not in (0, own_session)
    )
    return Tree(members, orphans)


def send(process: Process, signum: signal.Signals) -> int | None:
    """Signal exactly this process and return its pidfd, which the caller closes; None when it is gone or not ours."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return None
    try:
        now = read_process(process.pid)
        if now is not None and now.start_ticks == process.start_ticks and not now.is_zombie:
            signal.pidfd_send_signal(pidfd, signum)
            return pidfd
    except OSError:
        pass
    os.close(pidfd)
    return None


def _processes() -> Iterator[Process]:
    """All processes. Looked for until a look shows nothing new: one that forks and leaves while we read would hide
    its child, which is on no earlier list."""
    seen: set[str] = set()
    for _ in range(LOOKS_MAX):  # beside something that forks all the time there is always something new
        new = [name for name in os.listdir(PROC) if name.isdecimal() and name not in seen]
        if not new:
            return
        seen.update(new)
        for name in new:
            if (process := read_process(int(name))) is not None:
                yield process


def _carries(pid: int, needle: bytes) -> bool:
    try:
        path = PROC / str(pid) / "environ"
        environment = path.read_bytes()
        if not environment:  # for a moment so, in the middle of an exec
            time.sleep(EXEC_S)
            environment = path.read_bytes()
        return needle in environment.split(b"\0")
    except OSError:  # gone, or another user's
        return False
