"""Measure the floors of the path of a token: the same loads through the bare relay, idle forks of an interpreter."""

import functools
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.floors import Floors
from benchmarks.table import shown
from benchmarks.token_path import loads
from benchmarks.token_path.bare_relay import BareRelay, bare_relay
from benchmarks.token_path.conversation import BareConversation
from benchmarks.token_path.figures import TARGETS
from benchmarks.token_path.loads import Values
from benchmarks.token_path.options import Options
from benchmarks.token_path.process_tree import ProcessTree, thread_cpu_s
from benchmarks.token_path.watchers import watch_relay

FORKS = """
import asyncio, gc, os, signal, sys
gc.freeze()
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        signal.pause()
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, signal.SIGTERM)
"""


async def through_relay(directory: Path, provider_port: int, options: Options) -> Values:
    """Apply all loads to the bare relay; the CPU time is that of the relay alone."""
    async with bare_relay(directory, provider_port) as relay:
        cpu_s = functools.partial(thread_cpu_s, relay.pid)
        one = await BareConversation.open(relay.relay_path)
        values = await loads.one_after_the_other(one, cpu_s, options.replies)
        values |= await _fan_out(relay, one, options)
        one.close()
        for load in (loads.first_replies, loads.at_once):
            many = await _conversations(relay, options.workspaces)
            values |= await load(many, cpu_s)
            _close(many)
        many = await _conversations(relay, options.workspaces)
        values |= await loads.first_replies_at_once(many)
        values |= await loads.paced(many, cpu_s, options.paced_s)
        _close(many)
    return values


async def _fan_out(relay: BareRelay, one: BareConversation, options: Options) -> Values:
    watchers = await watch_relay(relay.watch_path, loads.LAST_TOKEN, options.clients)
    values = await loads.fan_out(one, watchers)
    for watcher in watchers:
        watcher.close()
    return values


async def _conversations(relay: BareRelay, count: int) -> list[BareConversation]:
    return [await BareConversation.open(relay.relay_path) for _ in range(count)]


def _close(conversations: Sequence[BareConversation]) -> None:
    for conversation in conversations:
        conversation.close()


def idle_forks_pss_mb(count: int) -> float:
    """Return the PSS of an interpreter with asyncio imported and `count` idle forks of it, in MB."""
    command = [sys.executable, "-P", "-c", FORKS, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        pss_mb = ProcessTree(process.pid).pss_mb()
        process.stdin.close()
        process.wait()
    return pss_mb


def texts(runs: Sequence[Values], bare: Floors, options: Options) -> dict[str, str]:
    """Return the floor of each figure as text, by its key. Starts the idle forks."""
    result = {}
    for key in runs[0]:
        value = statistics.median(run[key] for run in runs)
        result[key] = f"bare relay {shown(value)} {TARGETS[key].unit}"
    start = {"interpreter": "bare interpreter", "imports": "with libraries imported"}
    result["accepted"] = bare.of(tornado="bare handler", zmq="bare round trip", commit="bare commit")
    result["create"] = bare.of(fork="bare fork", tornado="4 times: bare handler", commit="bare commit")
    result["cold_health"] = bare.of(**start)
    result["cold_token"] = result["cold_cpu"] = f"{result['cold_health']}, both for command and server"
    count = options.idle_workspaces
    result["awake_pss"] = f"{count} idle forks of an interpreter {shown(idle_forks_pss_mb(count))} MB"
    result["asleep_pss"] = f"one idle fork of an interpreter {shown(idle_forks_pss_mb(1))} MB"
    result["idle_cpu"] = "0 %, a process that sleeps"
    return result
