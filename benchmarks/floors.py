"""Measure the floors: what the bare operations cost on this machine now. No figure of the service can be lower."""

import asyncio
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import Client
from benchmarks.table import median_ms, percentile_ms, shown

ROUNDS = 200
CHILD_READY_S = 20.0

TORNADO = """
import sys, tornado.web, tornado.httpserver, tornado.netutil, asyncio
class Handler(tornado.web.RequestHandler):
    def post(self): self.set_status(202); self.write(b'{"run_id":"x"}')
async def main():
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/.*", Handler)]))
    server.add_socket(tornado.netutil.bind_unix_socket(sys.argv[1]))
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

ECHO = """
import sys, zmq, zmq.asyncio, asyncio
async def main():
    socket = zmq.asyncio.Context().socket(zmq.DEALER)
    socket.connect("ipc://" + sys.argv[1])
    await socket.send(b"hello")
    while True:
        await socket.send_multipart(await socket.recv_multipart())
asyncio.run(main())
"""


@dataclass(frozen=True)
class Floors:
    """The floors in milliseconds; medians unless the name says otherwise."""

    interpreter_ms: float
    imports_ms: float
    fork_ms: float
    zmq_ms: float
    tornado_ms: float
    commit_ms: float
    script_200_ms: float
    timer_p95_ms: float

    def of(self, **named: str) -> str:
        """Return the named floors as text, each with its label: `of(fork="bare fork")`."""
        return ", ".join(f"{text} {shown(getattr(self, name + '_ms'))} ms" for name, text in named.items())


async def measure() -> Floors:
    """Measure all floors, one after the other."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-floor-") as name:
        directory = Path(name)
        return Floors(
            interpreter_ms=median_ms([_run("pass") for _ in range(7)]),
            imports_ms=median_ms([_run("import asyncio, tornado.web, zmq, msgspec, sqlalchemy") for _ in range(5)]),
            fork_ms=median_ms([_fork() for _ in range(ROUNDS)]),
            zmq_ms=await _zmq(directory / "zmq"),
            tornado_ms=await _tornado(directory / "http"),
            commit_ms=median_ms(list(_commits(directory / "db"))),
            script_200_ms=await _script(),
            timer_p95_ms=await _timer(),
        )


def _run(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    return time.perf_counter() - started


def _fork() -> float:
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return time.perf_counter() - started


@contextmanager
def _child(code: str, argument: Path) -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen([sys.executable, "-P", "-c", code, str(argument)], stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


async def _zmq(path: Path) -> float:
    """Measure a round trip between a ROUTER here and a DEALER in another process."""
    import zmq
    import zmq.asyncio

    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{path}")
    took = []
    try:
        with _child(ECHO, path):
            async with asyncio.timeout(CHILD_READY_S):
                name, _ = await router.recv_multipart()
                for _ in range(ROUNDS):
                    started = time.perf_counter()
                    await router.send_multipart([name, b"x" * 200])
                    await router.recv_multipart()
                    took.append(time.perf_counter() - started)
    finally:
        router.close(linger=0)
        context.term()
    return median_ms(took)


async def _tornado(path: Path) -> float:
    """Measure a POST to a handler that does nothing, on a persistent connection."""
    took = []
    async with bare_handler(path):
        client = Client(path)
        for _ in range(ROUNDS):
            started = time.perf_counter()
            await client.request("POST", "/v1/x", {"prompt": "x" * 100})
            took.append(time.perf_counter() - started)
        client.close()
    return median_ms(took)


@asynccontextmanager
async def bare_handler(path: Path) -> AsyncIterator[Path]:
    """Run a Tornado server in a process of its own, on the socket `path`; it answers every POST with a constant."""
    with _child(TORNADO, path) as child:
        assert child.stdout is not None
        await asyncio.to_thread(child.stdout.readline)
        yield path


def _commits(path: Path) -> Iterator[float]:
    """Yield the seconds of durable commits of one row."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    connection.execute("create table t (x)")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        connection.execute("begin immediate")
        connection.execute("insert into t values (?)", ("x" * 200,))
        connection.execute("commit")
        yield time.perf_counter() - started
    connection.close()


async def _script() -> float:
    """Measure reading 200 tokens of the scripted model directly, without a server."""
    from protocol.api.message import Message, TextData, TextPart
    from protocol.base.clock import SystemClock
    from protocol.limits import DEFAULT_LIMITS
    from worker.models.client import ModelRequest
    from worker.models.script import ScriptModel

    model = ScriptModel(sleep=asyncio.sleep, clock=SystemClock(), limits=DEFAULT_LIMITS)
    prompt = Message(id="m", session_id="s", role="user", parts=[TextPart(TextData(text="/tokens 200"))])
    took = []
    for _ in range(20):
        started = time.perf_counter()
        async for _ in model.stream(ModelRequest(system="", messages=[prompt], tools=[], max_tokens=0)):
            pass
        took.append(time.perf_counter() - started)
    return median_ms(took)


async def _timer() -> float:
    """Measure how late an idle event loop wakes up: 20 timers, 50 times a second each."""
    delays: list[float] = []

    async def tick() -> None:
        start = time.monotonic() + random.random() / 50
        for number in range(50):
            due = start + number / 50
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            delays.append(max(0.0, time.monotonic() - due))

    await asyncio.gather(*(tick() for _ in range(20)))
    return percentile_ms(delays, 95)


def socket_pair_mb_per_s() -> float:
    """Measure the throughput of a Unix socket pair inside one process, in MB per second."""
    left, right = socket.socketpair()
    block, total = b"x" * 65536, 0
    started = time.perf_counter()
    while time.perf_counter() - started < 0.2:
        left.sendall(block)
        total += len(right.recv(65536, socket.MSG_WAITALL))
    left.close()
    right.close()
    return total / (time.perf_counter() - started) / 1e6
