"""Implement `bulkhead cancel`: end one run, the runs of a session, or all runs of a workspace."""

from pathlib import Path

import click

from protocol.api.agent import Run
from protocol.errors import BadInput, NotFound
from supervisor.cli.common_options import find_server, find_worker, perform, server_options, workspace_options
from supervisor.cli.terminal.formatting import note, one_line
from supervisor.client.api import Api

OPEN_RUNS_MAX = 1000


@click.command(
    epilog="\b\nExamples:\n  bulkhead cancel                   the only open run of this workspace\n"
    "  bulkhead cancel RUN_ID\n  bulkhead cancel --session ID\n  bulkhead cancel --all --cwd ~/project"
)
@click.argument("run_id", required=False)
@click.option("--session", "session_id", metavar="ID", help="Cancel all open runs of this session.")
@click.option("--all", "is_all", is_flag=True, help="Cancel all open runs of the workspace.")
@workspace_options
@server_options
def cancel(
    run_id: str | None,
    session_id: str | None,
    is_all: bool,
    cwd: Path | None,
    workspace: str | None,
    host: str | None,
    token_file: Path | None,
) -> None:
    """Cancel a run, all runs of a session, or all runs of a workspace.

    The answer so far stays in the conversation. Prompts that are sent later run normally.
    """
    if (run_id is not None) + (session_id is not None) + is_all > 1:
        raise click.UsageError("choose one of RUN_ID, --session and --all")

    async def work() -> None:
        api = find_server(host, token_file).api()
        workspace_id = (await find_worker(api, cwd, workspace)).id
        for run in await _select(api, workspace_id, run_id, session_id, is_all):
            await api.cancel(workspace_id, run.session_id, run_id=run.id)
            note(f"cancelled {run.id}: {one_line(run.prompt, 60)}")

    perform(work())


async def _select(api: Api, workspace_id: str, run_id: str | None, session_id: str | None, is_all: bool) -> list[Run]:
    """Return the open runs that the arguments select. Raises BadInput, NotFound."""
    if run_id is not None:
        run = await api.run(workspace_id, run_id)
        if run.state == "ended":
            note(f"this run has already ended: {run.outcome}")
            return []
        return [run]
    runs = await api.runs(workspace_id, session_id=session_id or "", limit=OPEN_RUNS_MAX)
    # Newest first: a queued run is cancelled before the run ahead of it ends, and so never starts.
    open_runs = [run for run in runs if run.state != "ended"]
    if not open_runs:
        raise NotFound("there is nothing to cancel: no run is open here", code="run_unknown")
    if len(open_runs) > 1 and not is_all and session_id is None:
        lines = "\n".join(f"  {run.id}  {run.state}  {one_line(run.prompt, 60)}" for run in open_runs)
        raise BadInput(f"cannot tell which of {len(open_runs)} open runs to cancel; name one, or use --all:\n{lines}")
    return open_runs
