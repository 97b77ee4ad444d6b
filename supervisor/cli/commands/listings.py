"""Implement `bulkhead ps`, `sessions`, `messages` and `runs`: list things as tables or as JSON."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from protocol.api.message import (
    BinaryPart,
    FinishPart,
    ImageURLPart,
    Message,
    Part,
    ReasoningPart,
    ShellCommandPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from protocol.errors import NotFound
from supervisor.cli.common_options import (
    find_server,
    find_worker,
    json_option,
    perform,
    print_json,
    server_options,
    workspace_options,
)
from supervisor.cli.terminal.formatting import (
    colourise,
    has_colour,
    note,
    one_line,
    outcome,
    since,
    size,
    strip_controls,
    table,
)

Options = dict[str, Any]
_STATE_COLOURS = {"ready": "green", "failed": "red", "asleep": "dim"}


@click.command(
    epilog="\b\nExamples:\n  bulkhead ps\n  bulkhead ps --json | jq -r 'select(.state == \"failed\") | .path'"
)
@json_option
@server_options
def ps(as_json: bool, host: str | None, token_file: Path | None) -> None:
    """List workspaces and their workers.

    States: asleep, starting, ready, degraded, closing, restarting, failed. MEMORY is the private memory of a worker,
    without the pages it shares with other workers. RUNS counts the runs that have not ended.
    """

    async def work() -> None:
        workers = await find_server(host, token_file).api().workers(with_memory=True)
        if as_json:
            for worker in workers:
                print_json(worker)
            return
        if not workers:
            note("no workspaces yet: `bulkhead run` in a directory creates one")
            return
        head = ["ID", "STATE", "PID", "MEMORY", "RUNS", "CLIENTS", "UP", "PATH"]
        rows = []
        for worker in sorted(workers, key=lambda worker: worker.path):
            rows.append(
                [
                    worker.id[:8],
                    worker.state,
                    str(worker.pid or "-"),
                    size(worker.rss_bytes if worker.uss_bytes is None else worker.uss_bytes),
                    str(worker.open_runs),
                    str(worker.clients),
                    since(worker.started_at if worker.pid else None),
                    worker.path + (f"  ({worker.reason})" if worker.reason else ""),
                ]
            )
        click.echo(_coloured(table(head, rows, right=range(2, len(head) - 1)), [row[1] for row in rows]), color=True)

    perform(work())


@click.command(epilog="\b\nExamples:\n  bulkhead sessions\n  bulkhead sessions --cwd ~/project --json")
@json_option
@workspace_options
@server_options
def sessions(cwd: Path | None, workspace: str | None, as_json: bool, host: str | None, token_file: Path | None) -> None:
    """List the sessions of a workspace.

    Newest first.
    """

    async def work() -> None:
        api = find_server(host, token_file).api()
        listed = await api.sessions((await find_worker(api, cwd, workspace)).id)
        if as_json:
            for session in listed:
                print_json(session)
            return
        if not listed:
            note("no sessions yet")
            return
        rows = [
            [
                session.id,
                str(session.message_count),
                "busy" if session.is_busy else "",
                since(session.updated_at),
                one_line(session.title, 60),
            ]
            for session in listed
        ]
        click.echo(table(["ID", "MESSAGES", "", "CHANGED", "TITLE"], rows, right=(1, 3)))

    perform(work())


@click.command(
    epilog="\b\nExamples:\n  bulkhead messages                 of the newest session of this directory\n"
    "  bulkhead messages SESSION --json"
)
@click.argument("session", required=False)
@json_option
@workspace_options
@server_options
def messages(
    session: str | None,
    cwd: Path | None,
    workspace: str | None,
    as_json: bool,
    host: str | None,
    token_file: Path | None,
) -> None:
    """Print a conversation.

    The conversation of SESSION, or of the newest session.
    """

    async def work() -> None:
        api = find_server(host, token_file).api()
        worker = await find_worker(api, cwd, workspace)
        if session:
            session_id = (await api.session(worker.id, session)).id
        else:
            listed = await api.sessions(worker.id)
            if not listed:
                raise NotFound("there is no session in this workspace yet", code="session_unknown")
            session_id = listed[0].id
        for message in await api.messages(worker.id, session_id):
            if as_json:
                print_json(message)
            else:
                click.echo(_message_text(message), color=True)

    perform(work())


@click.command(epilog="\b\nExamples:\n  bulkhead runs\n  bulkhead runs --session ID --limit 5 --json")
@click.option("--session", "session_id", metavar="ID", default="", help="Only the runs of this session.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many runs, newest first."
)
@json_option
@workspace_options
@server_options
def runs(
    session_id: str,
    limit: int,
    cwd: Path | None,
    workspace: str | None,
    as_json: bool,
    host: str | None,
    token_file: Path | None,
) -> None:
    """List the runs of a workspace.

    Every accepted prompt and its outcome, newest first.
    """

    async def work() -> None:
        api = find_server(host, token_file).api()
        worker = await find_worker(api, cwd, workspace)
        listed = await api.runs(worker.id, session_id=session_id, limit=limit)
        if as_json:
            for run in listed:
                print_json(run)
            return
        if not listed:
            note("no runs yet")
            return
        rows = [
            [
                run.id,
                outcome(run),
                since(run.accepted_at_ms / 1000),
                _duration(run.started_at_ms, run.ended_at_ms),
                one_line(run.prompt, 50) + (f"  ({run.cause})" if run.cause and run.outcome != "cancelled" else ""),
            ]
            for run in listed
        ]
        click.echo(table(["ID", "STATE", "ACCEPTED", "TOOK", "PROMPT"], rows, right=(2, 3)))

    perform(work())


def _duration(started_ms: int, ended_ms: int) -> str:
    return f"{(ended_ms - started_ms) / 1000:.1f}s" if started_ms and ended_ms else "-"


def _coloured(text: str, states: list[str]) -> str:
    """Return the table with each state in its colour."""
    if not has_colour(sys.stdout):
        return text
    head, *lines = text.split("\n")
    coloured = [
        line.replace(state, colourise(state, _STATE_COLOURS.get(state, "yellow"), sys.stdout), 1)
        for line, state in zip(lines, states, strict=True)
    ]
    return "\n".join([colourise(head, "bold", sys.stdout), *coloured])


def _message_text(message: Message) -> str:
    lines = [colourise(message.role, "bold", sys.stdout)]
    for part in message.parts:
        lines += [f"  {line}" for line in _PARTS[type(part)](part).split("\n") if line]
    return "\n".join(lines)


def _finish(part: Any) -> str:
    data = part.data
    if data.reason in ("end_turn", "stop", "tool_use"):
        return ""
    words = " ".join(word for word in (f"[{data.reason}]", data.message, data.details) if word)
    return colourise(words, "yellow", sys.stdout)


def _dim(text: str) -> str:
    return colourise(text, "dim", sys.stdout)


_PARTS: dict[type[Part], Callable[[Any], str]] = {
    TextPart: lambda part: strip_controls(part.data.text, sys.stdout),
    ReasoningPart: lambda part: _dim(f"(thinking) {one_line(part.data.thinking, 200)}"),
    ImageURLPart: lambda part: _dim(f"(image {one_line(part.data.url, 200)})"),
    BinaryPart: lambda part: _dim(
        f"(file {one_line(part.data.path, 200)}, {one_line(part.data.mime_type, 60)}, {size(len(part.data.data))})"
    ),
    ToolCallPart: lambda part: _dim(f"→ {part.data.name} {one_line(part.data.input, 200)}"),
    ToolResultPart: lambda part: _dim(f"{'✗' if part.data.is_error else '✓'} {one_line(part.data.content, 200)}"),
    FinishPart: _finish,
    ShellCommandPart: lambda part: strip_controls(f"$ {part.data.command}\n{part.data.output}", sys.stdout),
}
