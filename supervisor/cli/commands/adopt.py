"""Implement `bulkhead adopt`: make a directory the folder of an existing workspace."""

from pathlib import Path

import click

from protocol.api.workspace import WorkerStatus
from protocol.errors import BadInput, NotFound
from supervisor.cli.common_options import (
    directory,
    find_server,
    find_worker,
    perform,
    server_options,
    without_directory,
)
from supervisor.cli.terminal.confirmation import confirm
from supervisor.cli.terminal.formatting import note
from supervisor.client.api import Api


@click.command(
    epilog="\b\nExamples:\n  bulkhead adopt .                     of the one workspace whose directory is gone\n"
    "  bulkhead adopt ~/new-place --as 5f0c"
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--as", "workspace", metavar="ID", help="The workspace, by its id or the beginning of its id.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask which workspace is meant if only one can be.")
@server_options
def adopt(path: Path, workspace: str | None, yes: bool, host: str | None, token_file: Path | None) -> None:
    """Make a directory the folder of an existing workspace.

    A folder that was renamed or moved is recognised without this command. It is for those that are not, for example
    after a restore without the data directory. The conversations that are in the directory are used.
    """

    async def work() -> int:
        api = find_server(host, token_file).api()
        place = directory(path)
        worker = await find_worker(api, None, workspace) if workspace else await _only_one_gone(api)
        question = f"make {place} the directory of the workspace {worker.id[:8]}, which was {worker.path}?"
        if not workspace and not yes and not confirm(question, otherwise=f"--as {worker.id[:8]}"):
            return 1
        await api.adopt(worker.id, place)
        note(f"{place} is the workspace {worker.id[:8]} now")
        return 0

    perform(work())


async def _only_one_gone(api: Api) -> WorkerStatus:
    """Return the only workspace whose directory is gone. Raises NotFound, BadInput."""
    gone = without_directory(await api.workers())
    if not gone:
        raise NotFound(
            "cannot tell which workspace is meant: every workspace has its directory; name one with --as, "
            "`bulkhead ps` lists them",
            code="workspace_unknown",
        )
    if len(gone) > 1:
        lines = "\n".join(f"  --as {worker.id[:8]}  {worker.path}" for worker in gone)
        raise BadInput(f"cannot tell which of {len(gone)} workspaces without a directory is meant:\n{lines}")
    return gone[0]
