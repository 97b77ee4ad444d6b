"""Start a real server in a fresh directory by pytest-xprocess, and the zygote that all servers of a test session share.

Warming up a zygote costs seconds of CPU, so one is started per session. Each server finds it under the name that its
own zygote would have, and runs with `--no-zygote`. Tests of the zygote itself use a private one.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from xprocess import ProcessStarter, XProcess

from tests.support.processes import HARNESS_MARKER, Process

START_S = 15.0
STOP_S = 20.0
WARM_S = 60.0


ZYGOTE_ENV = {"BULKHEAD_WORKSPACE_ID": "-" * 64, "SPT_NOENV": "1"}
"""Environment for starting a zygote: it reserves space for the marker, which workers overwrite in place."""


def zygote_command(socket_path: Path) -> list[str]:
    """Return the command line of a zygote, which exits by itself after a time without connections."""
    command = [sys.executable, "-P", "-m", "worker.zygote", "--socket", str(socket_path)]
    return [*command, "--title-room", "." * 160]


class ServerDied(AssertionError):
    """Raised when a process did not become ready; the text ends with its log."""


class SharedZygote:
    """A warm zygote in a directory of its own. The connection stays open: if the tests are killed, the zygote exits."""

    def __init__(self, root: Path) -> None:
        self.socket_path = root / "zygote.sock"
        self.log_path = root / "zygote.log"
        self._connection: socket.socket | None = None
        with self.log_path.open("wb") as log:
            self.popen = subprocess.Popen(
                zygote_command(self.socket_path),
                cwd="/",
                env={"PATH": os.environ["PATH"], "HOME": str(root)} | ZYGOTE_ENV,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait for the greeting of the zygote and for its warm template. Raises ServerDied."""
        deadline = time.monotonic() + WARM_S
        while time.monotonic() < deadline and self.popen.poll() is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                connection.connect(str(self.socket_path))
                if connection.recv(65536):
                    connection.shutdown(socket.SHUT_RD)  # its reports about children are not needed
                    self._connection = connection
                    self._wait_warm(deadline)
                    return
            except OSError:
                time.sleep(0.05)  # no event announces the socket
            connection.close()
        raise ServerDied(f"the zygote is not ready (exit code {self.popen.poll()})\n{self.log_path.read_text()}")

    def _wait_warm(self, deadline: float) -> None:
        while "zygote warm" not in self.log_path.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)  # the log is the only sign; the test of the memory of workers needs a warm template

    def close(self) -> None:
        """Stop the zygote; each test has already stopped its workers."""
        if self._connection is not None:
            self._connection.close()
        self.popen.terminate()
        try:
            self.popen.wait(5)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(5)


class Server:
    """One runtime directory and the server that owns it, across restarts. `start` blocks: call it in a thread."""

    def __init__(
        self,
        xprocess: XProcess,
        root: Path,
        *,
        limits: Mapping[str, object],
        env: Mapping[str, str],
        zygote: SharedZygote | None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.name = root.name
        self.root = root
        self.runtime_dir = root / "r" / "bulkhead"
        self.state_dir = root / "s" / "bulkhead"
        self.socket_path = root / "r" / "bulkhead.sock"
        self.process: Process | None = None
        self.exit_codes: list[int] = []
        self._xprocess = xprocess
        self._popen: subprocess.Popen[bytes] | None = None
        self._arguments = arguments
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root / "h"),
            "XDG_RUNTIME_DIR": str(root / "r"),
            "XDG_STATE_HOME": str(root / "s"),
            "XDG_CONFIG_HOME": str(root / "c"),
            "PYTHONUNBUFFERED": "1",
            "BULKHEAD_LOCAL_MODEL": "0",  # the scripted model is the default even if a local model is installed
            HARNESS_MARKER: root.name,
            "BULKHEAD_LIMITS": json.dumps(dict(limits)),
        } | dict(env)
        for name in ("h", "r", "s", "c"):
            (root / name).mkdir(mode=0o700)
        if zygote is not None:
            self.runtime_dir.mkdir(mode=0o700)
            (self.runtime_dir / "zygote.sock").symlink_to(zygote.socket_path)
            self._arguments += ("--no-zygote",)

    @property
    def pid(self) -> int:
        """Pid of the current or most recent server."""
        assert self.process is not None
        return self.process.pid

    @property
    def environment(self) -> dict[str, str]:
        """Environment for commands: the directories of the server, without the notify socket."""
        return {key: value for key, value in self._env.items() if key != "NOTIFY_SOCKET"}

    @property
    def log(self) -> str:
        """Output of all servers of this directory."""
        path = Path(str(self._xprocess.getinfo(self.name).logpath))
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start the server and wait for READY. Raises ServerDied with the log."""
        assert self._popen is None, "the server is already running"
        server = self

        class Starter(ProcessStarter):  # type: ignore[misc]
            pattern = "READY"
            timeout = START_S
            max_read_lines = 1000
            terminate_on_interrupt = True
            args = server.command()
            env = server._env

            def get_lines(self, log_file: Any) -> Any:
                for line in super().get_lines(log_file):
                    if not line and server._has_ended():
                        raise ServerDied(f"the server exited before it was ready\n{server.log}")
                    yield line

        try:
            self._xprocess.ensure(self.name, Starter)
        except (TimeoutError, RuntimeError) as error:
            raise ServerDied(f"the server is not ready: {error}\n{self.log}") from error
        finally:
            self._popen = self._xprocess.resources[-1].popen
            if self._popen is not None and self._popen.poll() is None:
                self.process = Process(self._popen.pid)

    def add_arguments(self, *arguments: str) -> None:
        """Start the server with these further arguments from now on."""
        self._arguments += arguments

    def command(self) -> list[str]:
        """Return the command line, with `python -P` so that no module in the working directory shadows the product."""
        return [sys.executable, "-P", "-m", "supervisor", "serve", "--log-level", "debug", *self._arguments]

    def run_another(
        self, *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = START_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a second server on the same directories, which must refuse to start. Blocks until it exits."""
        env = self.environment | dict(env or {})
        command = [*self.command(), *arguments]
        return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=timeout_s, check=False)

    async def restart(self) -> None:
        """Start the server without blocking the event loop."""
        await asyncio.to_thread(self.start)

    async def ended(self, timeout_s: float = STOP_S) -> int:
        """Wait until the server has exited; return its exit code, negative for a signal."""
        assert self.process is not None
        assert self._popen is not None
        await self.process.gone(timeout_s)
        code = self._popen.wait(1)
        self._popen = None
        self.process.close()
        self.exit_codes.append(code)
        return code

    async def kill9(self) -> None:
        """Send SIGKILL to the supervisor only and wait until it has exited."""
        self.send(signal.SIGKILL)
        assert await self.ended() == -signal.SIGKILL

    async def stop(self) -> int:
        """Send SIGTERM, wait for the whole shutdown and return the exit code."""
        self.send(signal.SIGTERM)
        return await self.ended()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        assert self.process is not None
        self.process.send(number)

    @property
    def is_running(self) -> bool:
        """Return whether the server was started and its exit has not been waited for."""
        return self._popen is not None

    def close(self) -> None:
        """Kill the server if it is running and close the files of xprocess."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait(5)
            self._popen = None
            if self.process is not None:
                self.process.close()
        self._xprocess.config.__dict__.get("_extlogfiles", {}).pop(self.name, None)
        for resource in self._xprocess.resources:
            for handle in resource.fhandles:
                handle.close()
        self._xprocess.resources.clear()

    def _has_ended(self) -> bool:
        popen = self._xprocess.resources[-1].popen
        return popen is not None and popen.poll() is not None


def skip_unless_linux() -> None:
    """Skip the test on other systems: process tests need pidfds and /proc."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux: pidfd and /proc")
