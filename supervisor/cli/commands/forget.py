"""Implement `bulkhead forget`: remove the registration of a workspace."""

from collections.abc import Sequence
from pathlib import Path

import click

from protocol.api.workspace import WorkerStatus
from supervisor.cli.common_options import at_path, find_server, find_worker, perform, server_options, without_directory
from supervisor.cli.terminal.confirmation import confirm
from supervisor.cli.terminal.formatting import note
from supervisor.client.api import Api


@click.command(
    epilog="\b\nExamples:\n  bulkhead forget                 the workspace of this directory\n"
    "  bulkhead forget ~/old-project\n  bulkhead forget 5f0c --yes\n"
    "  bulkhead forget --gone          all workspaces whose directory is gone"
)
@click.argument("workspace", required=False, metavar="[ID|PATH]")
@click.option("--gone", "is_gone", is_flag=True, help="All workspaces whose directory is gone.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@server_options
def forget(workspace: str | None, is_gone: bool, yes: bool, host: str | None, token_file: Path | None) -> None:
    """Remove a workspace from the server's list; its files stay.

    Its worker is ended first, and its open runs are cancelled. Conversations are files in the directory: `bulkhead run`
    there finds them again, as a new workspace.
    """
    if is_gone and workspace is not None:
        raise click.UsageError("choose one of ID, PATH and --gone")

    async def work() -> int:
        api = find_server(host, token_file).api()
        chosen = without_directory(await api.workers()) if is_gone else [await _find(api, workspace)]
        if not chosen:
            note("nothing to forget: every workspace has its directory")
            return 0
        if not yes and not confirm(f"forget {_names(chosen)}?", otherwise="--yes"):
            return 1
        for worker in chosen:
            await api.forget(worker.id)
            note(f"forgot {worker.path}")
        return 0

    perform(work())


async def _find(api: Api, workspace: str | None) -> WorkerStatus:
    """Return the workspace with this id or path; the path may be gone. Raises NotFound, BadInput."""
    if workspace is None:
        return await find_worker(api, None, None)
    return at_path(await api.workers(), workspace) or await find_worker(api, None, workspace)


def _names(workers: Sequence[WorkerStatus]) -> str:
    return ", ".join(f"{worker.path} ({worker.id[:8]})" for worker in workers)
