"""Set up a fresh process as a worker: environment, title, standard files, limits; then call `worker.main`.

The steps are the same for a fork of the zygote and for a process that was started by command line.
"""

import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Mapping

import setproctitle

from protocol.base.file_identity import birth_ns
from protocol.base.process_identity import read_stat
from protocol.exit_codes import EXIT_DIRECTORY, EXIT_USAGE
from protocol.worker_spec import MARKER, MARKER_ROOM, WorkerSpec

GENERATION_MARKER = "BULKHEAD_GENERATION"
PLACEHOLDER = "-" * MARKER_ROOM
"""The value of MARKER in the zygote's own environment: space that a forked worker overwrites in place."""

_PR_SET_CHILD_SUBREAPER = 36
_OOM_SCORE_ADJ = 300
"""Makes the kernel kill workers before the supervisor (H04). Raising the own score needs no privilege."""


def become_worker(spec: WorkerSpec) -> int:
    """Turn this process into the worker that `spec` describes and run it; return its exit code."""
    _take_environment(spec)
    try:
        _take_standard_files(spec.log_path)
    except OSError as error:
        print(f"cannot open the log {spec.log_path}: {error}", file=sys.stderr)
        return EXIT_USAGE
    become_subreaper()
    faulthandler.enable()
    # The supervisor asks for a dump before it kills a worker that hangs (W12).
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(_OOM_SCORE_ADJ))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold keys (X08)
    setproctitle.setproctitle(f"bulkhead worker {spec.path}")
    try:
        os.chdir(spec.path)
    except OSError as error:
        print(f"cannot enter the workspace directory {spec.path}: {error}", file=sys.stderr, flush=True)
        return EXIT_DIRECTORY
    if spec.directory is not None and not _is_here(*spec.directory):
        print(f"cannot use the workspace directory {spec.path}: it is another one now", file=sys.stderr, flush=True)
        return EXIT_DIRECTORY
    from worker.main import run_worker

    return run_worker(spec)


def _is_here(inode: int, birth: int) -> bool:
    """Return whether the current directory has this inode and birth time, as far as both are known."""
    now = birth_ns(".")
    return os.stat(".").st_ino == inode and (not now or not birth or now == birth)


def become_subreaper() -> None:
    """Adopt the orphans of child processes, instead of the init process, so that they can be found and ended."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _take_environment(spec: WorkerSpec) -> None:
    os.environ.clear()
    os.environ.update(clean_environment(spec.env))
    os.environ[MARKER] = spec.marker
    os.environ[GENERATION_MARKER] = str(spec.generation)
    mark_in_place(spec.marker)


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the operating system accepts: without NUL, and names without `=`."""
    return {key: value for key, value in env.items() if key and "=" not in key and "\0" not in key + value}


def mark_in_place(marker: str) -> None:
    """Write the marker where /proc/<pid>/environ shows it: a fork inherits its parent's, and setenv does not reach it.

    The memory is this process's own; /proc/self/stat has its addresses. Does nothing when the placeholder is missing.
    """
    value = marker.encode()
    stat = read_stat(os.getpid())
    if stat is None:
        return
    start, end = stat.environment_start, stat.environment_end
    if not 0 < start < end or len(value) > len(PLACEHOLDER):
        return
    placeholder = f"{MARKER}={PLACEHOLDER}".encode()
    offset = ctypes.string_at(start, end - start).find(placeholder)
    if offset >= 0:
        padded = value + b"\0" * (len(PLACEHOLDER) - len(value))
        ctypes.memmove(start + offset + len(MARKER) + 1, padded, len(padded))


def _take_standard_files(log_path: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for descriptor in (null, log):
        if descriptor > 2:
            os.close(descriptor)
