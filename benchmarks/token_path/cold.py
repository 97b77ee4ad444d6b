"""Measure cold starts: of `bulkhead serve`, and of `bulkhead run` when no server is running."""

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.client import Json
from benchmarks.server import Server, make_home
from benchmarks.token_path.loads import Values
from benchmarks.token_path.process_tree import ProcessTree
from benchmarks.token_path.setup import BULKHEAD, configuration, make_projects

RUN_S_MAX = 60.0


@contextmanager
def _temporary_root() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="bulkhead-bench-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def health(provider_port: int) -> Values:
    """Start `bulkhead serve` in a fresh home and wait for its first healthy response."""
    with _temporary_root() as root:
        server = Server(root, configuration(provider_port), (str(BULKHEAD), "serve", "--log-level", "warning"))
        try:
            return {"cold_health": await server.healthy() * 1000}
        finally:
            await server.stop()


async def first_run(provider_port: int) -> Values:
    """Execute `bulkhead run "hello"` in a fresh home, in a project; the command starts the server.

    The CPU time is that of the command, the server, the fork server and the worker, until the command has ended.
    """
    with _temporary_root() as root:
        return await asyncio.to_thread(_first_run, root, configuration(provider_port))


def _first_run(root: Path, content: Json) -> Values:
    env = make_home(root, content)
    (project,) = make_projects(root, 1)
    socket_path = root / "r" / "bulkhead.sock"
    started = time.monotonic()
    with (root / "messages").open("wb") as messages:
        command = subprocess.Popen(
            [str(BULKHEAD), "run", "hello"],
            cwd=project,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
        )
    assert command.stdout is not None
    try:
        first = os.read(command.stdout.fileno(), 1)
        first_s = time.monotonic() - started
        command.stdout.read()
        _, status, usage = os.wait4(command.pid, 0)
        command.returncode = os.waitstatus_to_exitcode(status)
        if not first or command.returncode != 0:
            raise RuntimeError(f"`bulkhead run` ended with {command.returncode}\n{(root / 'messages').read_text()}")
        cpu_s = usage.ru_utime + usage.ru_stime + ProcessTree(_listener(socket_path)).cpu_s()
    finally:
        command.stdout.close()
        if command.returncode is None:
            command.kill()
        subprocess.run([str(BULKHEAD), "stop"], env=env, cwd=project, stderr=subprocess.DEVNULL, timeout=RUN_S_MAX)
    return {"cold_token": first_s, "cold_cpu": cpu_s}


def _listener(path: Path) -> int:
    """Return the id of the process that listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, _, _ = struct.unpack("3i", credentials)
    return int(pid)
