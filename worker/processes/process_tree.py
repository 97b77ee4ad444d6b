"""Find the processes that belong to a tool's command: by session, marker and descent (T03).

The scan blocks: call it on a thread. A daemon may leave the session (`setsid`) and its parent (double fork), but it
carries the marker in its environment. One that also cleared its environment becomes a child of the worker, which is a
subreaper.
"""

import signal
from dataclasses import dataclass

from protocol.base.marker_scan import find_marked, process_ids
from protocol.base.process_identity import ProcessHandle, ProcessStat, read_stat

_EXEC_WAIT_S = 0.002
"""For processes in the middle of an exec. Short, because the end of every command waits for a scan; most processes
show their environment by then, and the end of a tree scans until nothing is left."""


@dataclass(frozen=True)
class ProcessTree:
    """The result of a scan. `orphans` are children of the worker without a marker: any command may be their origin."""

    members: tuple[ProcessStat, ...]
    orphans: tuple[ProcessStat, ...]


def find_tree(leader: ProcessStat, marker: tuple[str, str], keeper_pid: int) -> ProcessTree:
    """Return every process that `leader` started, directly or not, without itself, and the orphans that it may have.

    `marker` is a variable of the environment and its value; `keeper_pid` is the subreaper.
    """
    keeper = read_stat(keeper_pid)
    own_session = keeper.session if keeper else 0
    stats = (stat for pid in process_ids() if (stat := read_stat(pid)) is not None)
    young = [s for s in stats if s.start_ticks >= leader.start_ticks and s.pid not in (leader.pid, keeper_pid)]
    members = {s.pid for s in young if leader.pid in (s.session, s.group)}
    rest = [s.pid for s in young if s.pid not in members]
    members.update(find_marked(*marker, pids=rest, exec_wait_s=_EXEC_WAIT_S))
    has_grown = True
    while has_grown:  # descendants, also of processes that dropped the marker
        children = {s.pid for s in young if s.pid not in members and s.parent in members | {leader.pid}}
        members |= children
        has_grown = bool(children)
    return ProcessTree(
        members=tuple(s for s in young if s.pid in members),
        orphans=tuple(
            s for s in young if s.pid not in members and s.parent == keeper_pid and s.session not in (0, own_session)
        ),
    )


def send(process: ProcessStat, signum: signal.Signals) -> ProcessHandle | None:
    """Signal exactly this process and return its handle, which the caller closes; None when it is dead or not ours."""
    handle = ProcessHandle.open(process.pid, process.start_ticks)
    if handle is None:
        return None
    try:
        handle.send(signum)
    except OSError:
        handle.close()
        return None
    return handle
