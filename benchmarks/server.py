"""Start a real server in a fresh directory, as a user would."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.client import Client, Json

START_S = 30.0
STOP_S = 30.0
COMMAND = (sys.executable, "-P", "-m", "supervisor", "serve", "--log-level", "warning")


class Server:
    """A running server. `started` is the start of its process on the monotonic clock, in seconds."""

    def __init__(self, root: Path, configuration: Json | None = None, command: Sequence[str] = COMMAND) -> None:
        self.root = root
        self.socket_path = root / "r" / "bulkhead.sock"
        self.env = make_home(root, configuration)
        self.log_path = root / "log"
        with self.log_path.open("wb") as log:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                command,
                cwd="/",
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def client(self) -> Client:
        """Return a new client of this server."""
        return Client(self.socket_path)

    async def healthy(self) -> float:
        """Wait for the first healthy response; return the seconds since the start of the process."""
        deadline = self.started + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}\n{self.log_path.read_text()}")
            try:
                client = self.client()
                status, _ = await client.request("GET", "/v1/health")
                client.close()
                if status == 200:
                    return time.monotonic() - self.started
            except OSError:
                pass
            await asyncio.sleep(0.002)  # no event announces the socket
        raise RuntimeError(f"the server is not healthy after {START_S} s\n{self.log_path.read_text()}")

    def make_directory(self, name: str) -> Path:
        """Create a directory for a workspace."""
        path = self.root / "w" / name
        path.mkdir()
        return path

    async def stop(self) -> float:
        """Send SIGTERM; return the seconds until the process has ended."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.process.wait, STOP_S)
        return time.monotonic() - started


def make_home(root: Path, configuration: Json | None = None) -> dict[str, str]:
    """Create the directories of a user below `root`, with a `bulkhead.json`; return the environment that names them."""
    for name in ("h", "r", "s", "c", "w"):
        (root / name).mkdir(mode=0o700)
    if configuration is not None:
        (root / "c" / "bulkhead").mkdir()
        (root / "c" / "bulkhead" / "bulkhead.json").write_text(json.dumps(configuration))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(root / "h"),
        "XDG_RUNTIME_DIR": str(root / "r"),
        "XDG_STATE_HOME": str(root / "s"),
        "XDG_CONFIG_HOME": str(root / "c"),
        "BULKHEAD_LOCAL_MODEL": "0",  # the scripted model answers, whatever is installed
    }


@asynccontextmanager
async def running_server(configuration: Json | None = None, command: Sequence[str] = COMMAND) -> AsyncIterator[Server]:
    """Start a fresh server and wait until it is healthy; stop it and remove its directory at the end."""
    root = Path(tempfile.mkdtemp(prefix="bulkhead-bench-"))
    server = Server(root, configuration, command)
    try:
        await server.healthy()
        yield server
    finally:
        if server.process.poll() is None:
            try:
                await server.stop()
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
        shutil.rmtree(root, ignore_errors=True)
