"""Start a server in the background, for `bulkhead run` without a running server and for the demo.

`start_server` uses the default address, so that other commands find the server, and lets it exit when it is idle. When
several are started at once, the locks of the runtime and the state directory let one live; the others exit with code 3,
which is not an error.
"""

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from protocol.address import Address
from protocol.errors import Unavailable
from supervisor.client.address import default_runtime_dir
from supervisor.client.api import Api
from supervisor.client.running_server import running_address

IDLE_EXIT_S = 60
START_S = 20.0
POLL_S = 0.02
EXIT_TAKEN = 3
TAIL_CHARS = 1500


def command(*arguments: str) -> list[str]:
    """Return the server's command line. `-P` keeps a user's folder from shadowing one of our packages."""
    return [sys.executable, "-P", "-m", "supervisor", "serve", *arguments]


def spawn(arguments: Sequence[str], log_path: Path, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a server that outlives this process; its output goes to `log_path`."""
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            command(*arguments),
            cwd="/",
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


async def wait_healthy(api: Api, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    """Wait until a server answers at the address of `api`. Raises Unavailable with the end of the log."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_S
    while not await api.is_healthy():
        code = process.poll()
        if code == EXIT_TAKEN and (other := running_address(os.environ)) not in (None, api.address):
            raise Unavailable(f"the server did not start, because another one of this user runs: use --host {other}")
        if code is not None and code != EXIT_TAKEN:
            raise Unavailable(f"the server did not start (exit code {code}):\n{_tail(log_path)}")
        if loop.time() > deadline:
            raise Unavailable(f"the server did not answer within {START_S:g} s:\n{_tail(log_path)}")
        await asyncio.sleep(POLL_S)


async def start_server(address: Address, api: Api, env: Mapping[str, str]) -> None:
    """Start a server at `address` that exits when idle, and wait until it answers. Raises Unavailable."""
    log_path = _private_directory(default_runtime_dir(env)) / "server.log"
    process = spawn([f"--host={address}", f"--idle-exit={IDLE_EXIT_S}"], log_path, env)
    await wait_healthy(api, process, log_path)


def _private_directory(path: Path) -> Path:
    """Create the directory unless it exists, and check that writing a log into it is safe. Raises Unavailable.

    The server makes its own, stricter checks.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise Unavailable(f"cannot start a server: {path} cannot be created: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise Unavailable(
            f"cannot start a server: {path} is not a directory that you own; set XDG_RUNTIME_DIR to one that is"
        )
    return path


def _tail(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[-TAIL_CHARS:].strip() or "(the log is empty)"
    except OSError:
        return f"(no log at {path})"
