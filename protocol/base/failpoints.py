"""Named points that a test can stop a process at; inert unless the environment names a control socket.

At a point the process connects to the socket that `BULKHEAD_FAILPOINTS` names, reports itself as one JSON line and
waits for one line in answer: `continue`, `kill`, `stop`, `exit0`, `segv`, `spin`, `raise` or `error:<errno name>`.
The points and their meaning stand in the list below; each is named in a test.
"""

import asyncio
import errno
import json
import os
import signal
import socket

ENVIRONMENT = "BULKHEAD_FAILPOINTS"

POINTS = (
    "prompt.before_commit",  # M0: request read, prompt not committed
    "prompt.after_commit",  # M1: committed, 202 not sent
    "run.before_start",  # M2: 202 sent, run not started
    "permission.requested",  # M5: a request is stored and published, and waits for an answer
    "terminal.after_commit",  # M6: terminal committed, not yet published
    "flush.mid",  # M7: the last flush is under way
    "close.a",  # M8: closing is set
    "close.b",  # cancel was sent
    "close.c",  # draining
    "close.d",  # flushing
    "close.e",  # before exit
    "worker.before_ready",  # recovery is done, Ready not said
    "events.before_send",  # a batch is about to leave the worker
    "answer.before_send",  # an answer is about to leave the worker
    "wake.before_spawn",  # M9: a worker is wanted, not yet spawned (supervisor)
    "tools.confine",  # the rules for a confined command are about to be made
    "evict.decided",  # M9: an eviction is decided (supervisor)
    "zygote.warm_up",  # M9: a template is about to warm up (zygote)
)


class FailpointRaised(Exception):
    """What the action `raise` raises."""


async def failpoint(name: str) -> None:
    """Stop here if a test wants so. Without a control socket this costs one dictionary look-up."""
    path = os.environ.get(ENVIRONMENT)
    if path is None:
        return
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return  # the test is over; its process is not
    try:
        writer.write(_report(name))
        await writer.drain()
        answer = (await reader.readline()).decode().strip()
    except OSError:
        answer = ""
    finally:
        writer.close()
    _act(answer or "continue")


def failpoint_blocking(name: str) -> None:
    """The same for threads without a loop, such as the database thread."""
    path = os.environ.get(ENVIRONMENT)
    if path is None:
        return
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(_report(name))
            answer = connection.makefile().readline().strip()
    except OSError:
        answer = ""
    _act(answer or "continue")


def _report(name: str) -> bytes:
    assert name in POINTS, name
    workspace = os.environ.get("BULKHEAD_WORKSPACE_ID", "").partition("@")[0]  # as protocol/worker_spec.py makes it
    report = {"point": name, "pid": os.getpid(), "workspace": workspace}
    return json.dumps(report).encode() + b"\n"


def _act(action: str) -> None:
    match action.split(":"):
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["stop"]:
            os.kill(os.getpid(), signal.SIGSTOP)
        case ["exit0"]:
            os._exit(0)
        case ["segv"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        case ["spin"]:
            while True:
                pass
        case ["raise"]:
            raise FailpointRaised("raised by a failpoint")
        case ["error", name]:
            number = getattr(errno, name)
            raise OSError(number, os.strerror(number))
        case _:
            return
