"""Implement `bulkhead restart`: replace the worker of a workspace."""

from pathlib import Path

import click

from supervisor.cli.common_options import find_server, find_worker, perform, server_options, workspace_options
from supervisor.cli.terminal.formatting import note


@click.command(epilog="\b\nExamples:\n  bulkhead restart\n  bulkhead restart --workspace 5f0c")
@workspace_options
@server_options
def restart(cwd: Path | None, workspace: str | None, host: str | None, token_file: Path | None) -> None:
    """Replace the worker of a workspace.

    Also restarts a workspace in state `failed`. Its open runs are cancelled first; other workspaces are not affected.
    """

    async def work() -> None:
        api = find_server(host, token_file).api()
        worker = await find_worker(api, cwd, workspace)
        await api.restart(worker.id)
        current = next((row for row in await api.workers() if row.id == worker.id), worker)
        note(f"restarted {current.path}: {current.state}" + (f", pid {current.pid}" if current.pid else ""))

    perform(work())
