"""Implement `bulkhead attach`: print the events of a workspace as readable lines."""

import sys
import time
from pathlib import Path

import click

from protocol.api.agent import AgentEvent, RunComplete
from protocol.api.message import FinishPart, Message, ToolCallPart, ToolResultPart
from protocol.api.session import Session
from protocol.api.workspace import WorkspaceState
from supervisor.cli.common_options import (
    find_server,
    find_worker,
    json_option,
    perform,
    server_options,
    workspace_options,
)
from supervisor.cli.terminal.formatting import colourise, note, one_line
from supervisor.cli.terminal.run_output import text_of
from supervisor.client.events import Reset, StreamEvent

WIDTH = 160


@click.command(
    epilog="\b\nExamples:\n  bulkhead attach\n  bulkhead attach --workspace 5f0c\n  bulkhead attach --json | jq .type"
)
@click.option("--after", metavar="EVENT_ID", default="", help="Start after this event instead of now.")
@json_option
@workspace_options
@server_options
def attach(
    after: str, cwd: Path | None, workspace: str | None, as_json: bool, host: str | None, token_file: Path | None
) -> None:
    """Show the events of a workspace, live.

    Ctrl-C detaches; runs continue. The stream resumes by itself when the server restarts, without losing events.
    """

    async def work() -> None:
        api = find_server(host, token_file).api()
        worker = await find_worker(api, cwd, workspace)
        async with api.events(worker.id, cursor=after, patience_s=60.0) as events:
            note(f"attached to {worker.path} ({worker.state}); press Ctrl-C to detach, runs continue")
            printer = EventPrinter()
            async for event in events:
                lines = [event.data.decode()] if as_json else printer.lines(event)
                for line in lines:
                    print(line, flush=True)

    perform(work())


class EventPrinter:
    """Turns events into lines. Remembers how many tool calls of each message were printed."""

    def __init__(self) -> None:
        self._calls_printed: dict[str, int] = {}
        self._state = ""

    def lines(self, event: StreamEvent) -> list[str]:
        """Return the lines for one event; none for a message that only grew."""
        lines = self._lines(event)
        stamp = time.strftime("%H:%M:%S")
        return [f"{colourise(stamp, 'dim', sys.stdout)} {line}" for line in lines]

    def _lines(self, event: StreamEvent) -> list[str]:
        match event.kind:
            case "message":
                return self._message(event.read(Message))
            case "run_complete":
                return [_run_complete(event.read(RunComplete))]
            case "session":
                session = event.read(Session)
                # Token counts change with every step; only creation and deletion are worth a line.
                return [] if event.change == "updated" else [f"session {session.id[:8]} {event.change} {session.title}"]
            case "workspace_state":
                state = event.read(WorkspaceState)
                text = f"workspace {state.state}" + (f" (pid {state.pid})" if state.pid else "")
                text += f": {state.reason}" if state.reason else ""
                is_news, self._state = text != self._state, text
                return [colourise(text, "yellow", sys.stdout)] if is_news else []
            case "agent_event":
                progress = event.read(AgentEvent)
                text = progress.error or progress.progress
                return [f"agent {progress.type}" + (f": {one_line(text, WIDTH)}" if text else "")]
            case "reset":
                return [colourise(f"events were missed: {event.read(Reset).reason}", "yellow", sys.stdout)]
            case "resumed":
                return [colourise("reconnected", "dim", sys.stdout)]
            case _:
                return [f"{event.kind} {event.change}"]

    def _message(self, message: Message) -> list[str]:
        """Return lines for user and tool messages at once, for an assistant's text at its end, for tool calls as each
        is complete."""
        where = f"[{message.session_id[:8]}]"
        if message.role == "user":
            return [f"{where} user: {one_line(text_of(message), WIDTH)}"]
        lines = [
            f"{where} tool {part.data.name} {'failed' if part.data.is_error else 'answered'}: "
            + one_line(part.data.content, WIDTH)
            for part in message.parts
            if isinstance(part, ToolResultPart)
        ]
        finish = next((part.data for part in message.parts if isinstance(part, FinishPart)), None)
        if message.role != "assistant":
            return lines
        calls = [part.data for part in message.parts if isinstance(part, ToolCallPart) and part.data.finished]
        printed = self._calls_printed.get(message.id, 0)
        lines += [f"{where} tool {call.name} called: {one_line(call.input, WIDTH)}" for call in calls[printed:]]
        self._calls_printed[message.id] = len(calls)
        if finish is None:
            return lines
        del self._calls_printed[message.id]
        text = one_line(text_of(message), WIDTH)
        end = "" if finish.reason in ("end_turn", "tool_use") else f" [{finish.reason}]"
        return [*lines, f"{where} assistant: {text}{end}"] if text or end else lines


def _run_complete(complete: RunComplete) -> str:
    if complete.cancelled:
        return colourise(f"run {complete.run_id} cancelled", "yellow", sys.stdout)
    if complete.error:
        return colourise(f"run {complete.run_id} failed: {one_line(complete.error, WIDTH)}", "red", sys.stdout)
    return colourise(f"run {complete.run_id} completed", "green", sys.stdout)
