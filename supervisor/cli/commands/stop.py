"""Implement `bulkhead stop`: find the server's process, verify its identity, end it with SIGTERM, report the result."""

import asyncio
import os
import signal
from pathlib import Path

import click

from protocol.address import Address, UnixAddress
from protocol.base.process_identity import ProcessHandle, start_ticks
from protocol.errors import BadInput, BulkheadError, Conflict, Unavailable
from supervisor.cli.common_options import find_server, perform
from supervisor.cli.server_process import (
    LockOwner,
    is_server,
    listener_pid,
    read_owner,
    unit_of,
)
from supervisor.cli.terminal.formatting import note
from supervisor.client.address import default_runtime_dir, parse_server_address
from supervisor.client.api import Api

WITHIN_S = 30.0
"""Longer than the server's own budgets for drain, flush and exit together."""


@click.command(
    epilog="\b\nExamples:\n  bulkhead stop\n  bulkhead stop --runtime-dir /tmp/mine\n"
    "\b\nRuns that have begun end as cancelled and keep the answer so far; those that cannot end in time are\n"
    "recovered at the next start. Prompts that wait stay accepted, and run at the next start of the server, in order;\n"
    "--cancel-queued cancels them too. A server that systemd runs must be stopped with systemctl."
)
@click.option("--runtime-dir", type=click.Path(path_type=Path), metavar="DIR", help="Runtime directory of the server.")
@click.option("-H", "--host", metavar="URL", help="unix:///PATH of the server.")
@click.option(
    "--within",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=WITHIN_S,
    show_default=True,
    help="How many seconds to wait for its end.",
)
@click.option("--cancel-queued", is_flag=True, help="Cancel also the prompts that wait and have not begun.")
def stop(runtime_dir: Path | None, host: str | None, timeout_s: float, cancel_queued: bool) -> None:
    """Stop the server: cancel the runs that have begun, keep the prompts that wait.

    Stops this user's default server unless another one is named.
    """

    async def work() -> int:
        owner = await asyncio.to_thread(_find, runtime_dir, host)
        if owner is None:
            note("nothing to stop: no server is running")
            return 0
        return await _end(owner, timeout_s, cancel_queued=cancel_queued)

    perform(work())


def _find(runtime_dir: Path | None, host: str | None) -> LockOwner | None:
    """Return the running server that the options select. Raises BadInput when an address identifies no process."""
    named = host or ("" if runtime_dir else os.environ.get("BULKHEAD_HOST", ""))
    if not named:
        owner = read_owner((runtime_dir or default_runtime_dir(os.environ)).absolute())
        if owner is not None and owner.start_ticks and start_ticks(owner.pid) == owner.start_ticks:
            return owner
        if runtime_dir:
            return None
    address = parse_server_address(named) if named else find_server(None, None).address
    if not isinstance(address, UnixAddress):
        raise BadInput(f"cannot find the process behind {address}: use --runtime-dir, on the server's own machine")
    pid = listener_pid(address)
    if pid is None:
        return None
    if not is_server(pid):
        raise BadInput(
            f"cannot stop the server at {address}: the process that listens there ({pid}) is not a Bulkhead server; "
            "if systemd holds the socket, use `systemctl stop bulkhead.target`"
        )
    return LockOwner(pid, start_ticks(pid) or 0, (str(address),))


async def _end(owner: LockOwner, timeout_s: float, *, cancel_queued: bool) -> int:
    """Send the signal and wait for the end; return the exit code. Raises Conflict, Unavailable."""
    if (unit := unit_of(owner.pid)) is not None:
        manager = "systemctl --user" if unit[1] else "systemctl"
        raise Conflict(f"this server is run by systemd ({unit[0]}): use `{manager} stop bulkhead.target`")
    open_runs = await _open_runs(owner)
    loop = asyncio.get_running_loop()
    target = ProcessHandle.open(owner.pid, owner.start_ticks)
    if target is None:
        note("nothing to stop: the server has just exited")
        return 0
    with target:
        began = loop.time()
        try:
            target.send(signal.SIGUSR2 if cancel_queued else signal.SIGTERM)
        except PermissionError:
            raise Conflict(f"cannot stop the server with pid {owner.pid}: it belongs to another user") from None
        note(
            f"stopping the server with pid {owner.pid}"
            + (_fate(open_runs, cancel_queued=cancel_queued) if open_runs else "")
        )
        if not await target.ended_within(timeout_s):
            raise Unavailable(
                f"the server with pid {owner.pid} has not exited within {timeout_s:g} s; its shutdown continues. "
                f"Its log says what it waits for; after `kill -9 {owner.pid}` the next start recovers the open runs"
            )
    note(f"stopped after {loop.time() - began:.1f} s")
    return 0


def _fate(open_runs: int, *, cancel_queued: bool) -> str:
    """Return the words that say what happens to the open runs."""
    if cancel_queued:
        return f"; open runs: {open_runs}, all are cancelled"
    return f"; open runs: {open_runs}; those that have begun are cancelled, the others run at the next start"


async def _open_runs(owner: LockOwner) -> int:
    """Return how many runs are open; 0 when the server does not answer."""
    for text in owner.listeners:
        try:
            address: Address = parse_server_address(text)
            if isinstance(address, UnixAddress):
                async with asyncio.timeout(2.0):
                    return sum(worker.open_runs for worker in await Api(address).workers())
        except (BulkheadError, TimeoutError):
            continue
    return 0
