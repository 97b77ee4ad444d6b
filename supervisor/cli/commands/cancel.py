"""Implement `bulkhead cancel`: end one run, the runs of a session, or all runs of a workspace."""

from pathlib import Path

import click

from protocol.api.agent import Run
from protocol.errors import BadInput, NotFound
from supervisor.cli.common_options import find_door, find_worker, perform, server_options, workspace_options
from supervisor.cli.terminal.formatting import note, one_line
from supervisor.client.api import Api

OPEN_RUNS_MAX = 1000


@click.command(
    epilog="\b\nExamples:\n  bulkhead cancel                   the one run that is open here\n"
    "  bulkhead cancel RUN_ID\n  bulkhead cancel --session ID\n  bulkhead cancel --all --cwd ~/project"
)
@click.argument("run_id", required=False)
@click.option("--session", "session_id", metavar="ID", help="Everything that is open in this session.")
@click.option("--all", "is_all", is_flag=True, help="Everything that is open in the workspace.")
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
    """Cancel a run, a session's runs, or all of a workspace.

    What was said so far stays in the conversation. Prompts that are sent later run normally.
    """
    if (run_id is not None) + (session_id is not None) + is_all > 1:
        raise click.UsageError("choose one of RUN_ID, --session and --all")

    async def work() -> None:
        api = find_door(host, token_file).api()
        workspace_id = (await find_worker(api, cwd, workspace)).id
        for chosen in await _choose(api, workspace_id, run_id, session_id, is_all):
            await api.cancel(workspace_id, chosen.session_id, run_id=chosen.id)
            note(f"cancelled {chosen.id}: {one_line(chosen.prompt, 60)}")

    perform(work())


async def _choose(api: Api, workspace_id: str, run_id: str | None, session_id: str | None, is_all: bool) -> list[Run]:
    """The open runs that are meant. Raises BadInput, NotFound."""
    if run_id is not None:
        run = await api.run(workspace_id, run_id)
        if run.state == "ended":
            note(f"that run has ended already: {run.outcome}")
            return []
        return [run]
    there = await api.runs(workspace_id, session_id=session_id or "", limit=OPEN_RUNS_MAX)
    # The newest first: what waits is dropped before the run ahead of it ends, and so never begins.
    there = [run for run in there if run.state != "ended"]
    if not there:
        raise NotFound("there is nothing to cancel: no run is open here", code="run_unknown")
    if len(there) > 1 and not is_all and session_id is None:
        lines = "\n".join(f"  {run.id}  {run.state}  {one_line(run.prompt, 60)}" for run in there)
        raise BadInput(f"cannot tell which of {len(there)} open runs is meant; name one, or use --all:\n{lines}")
    return there
