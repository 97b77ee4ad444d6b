"""Start the process of a zygote. Imports little, so that a server can start it before it imports the rest of itself."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from protocol.worker_spec import MARKER, MARKER_ROOM

SOCKET_NAME = "zygote.sock"
LOG_NAME = "zygote.log"
_TITLE_ROOM = "." * 160
_PLACEHOLDER = "-" * MARKER_ROOM
"""Space in the zygote's environment for the marker of a forked worker, as in worker/process_setup.py."""


def spawn_zygote(socket_path: Path, log_path: Path) -> "subprocess.Popen[bytes]":
    """Start a zygote that listens on `socket_path`; it exits when another one does. Raises OSError."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "NOTIFY_"))}
    environment.update({MARKER: _PLACEHOLDER, "SPT_NOENV": "1"})
    command = [sys.executable, "-P", "-m", "worker.zygote", "--socket", str(socket_path)]
    command += ["--title-room", _TITLE_ROOM]
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd="/",
            start_new_session=True,  # a Ctrl-C for the supervisor must not reach it
        )
    finally:
        os.close(log)


def spawn_unless_running(runtime_dir: Path) -> "subprocess.Popen[bytes] | None":
    """Start the zygote of a runtime directory; None when one is running or none can be started."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(runtime_dir / SOCKET_NAME))
        except OSError:
            pass
        else:
            return None
    try:
        return spawn_zygote(runtime_dir / SOCKET_NAME, runtime_dir / LOG_NAME)
    except OSError:
        return None  # tried again, and reported, when the server has started
