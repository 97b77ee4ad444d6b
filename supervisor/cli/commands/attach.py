"""`bulkhead attach`: the events of a workspace as they come, readable."""

import sys
import time
from pathlib import Path

import click

from protocol.api.agent import AgentEvent, RunComplete
from protocol.api.message import FinishPart, Message, ToolCallPart, ToolResultPart
from protocol.api.session import Session
from protocol.api.workspace import WorkspaceState
from supervisor.cli.common_options import (
    find_door,
    find_worker,
    json_option,
    perform,
    server_options,
    workspace_options,
)
from supervisor.cli.terminal.formatting import note, one_line, paint
from supervisor.cli.terminal.run_output import text_of
from supervisor.client.events import Reset, StreamEvent

WIDTH = 160


@click.command(
    epilog="\b\nExamples:\n  bulkhead attach\n  bulkhead attach --workspace 5f0c\n  bulkhead attach --json | jq .type"
)
@click.option("--after", metavar="EVENT_ID", default="", help="Begin after this event instead of now.")
@json_option
@workspace_options
@server_options
def attach(
    after: str, cwd: Path | None, workspace: str | None, as_json: bool, host: str | None, token_file: Path | None
) -> None:
    """Show what happens in a workspace, live.

    Ctrl-C leaves; runs go on. The stream resumes by itself when the server restarts, without a hole.
    """

    async def work() -> None:
        api = find_door(host, token_file).api()
        worker = await find_worker(api, cwd, workspace)
        async with api.events(worker.id, cursor=after, patience_s=60.0) as events:
            note(f"attached to {worker.path} ({worker.state}); ctrl-C leaves, runs go on")
            teller = Teller()
            async for event in events:
                lines = [event.data.decode()] if as_json else teller.tell(event)
                for line in lines:
                    print(line, flush=True)

    perform(work())


class Teller:
    """Makes lines of events. Remembers what it has told of each message."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}
        self._state = ""

    def tell(self, event: StreamEvent) -> list[str]:
        """The lines for one event; none for a message that only grew."""
        lines = self._lines(event)
        stamp = time.strftime("%H:%M:%S")
        return [f"{paint(stamp, 'dim', sys.stdout)} {line}" for line in lines]

    def _lines(self, event: StreamEvent) -> list[str]:
        match event.kind:
            case "message":
                return self._message(event.read(Message))
            case "run_complete":
                return [_run_complete(event.read(RunComplete))]
            case "session":
                session = event.read(Session)
                # Token counts change with every step; only births and deaths are news.
                return [] if event.change == "updated" else [f"session {session.id[:8]} {event.change} {session.title}"]
            case "workspace_state":
                state = event.read(WorkspaceState)
                text = f"workspace {state.state}" + (f" (pid {state.pid})" if state.pid else "")
                text += f": {state.reason}" if state.reason else ""
                is_news, self._state = text != self._state, text
                return [paint(text, "yellow", sys.stdout)] if is_news else []
            case "agent_event":
                told = event.read(AgentEvent)
                text = told.error or told.progress
                return [f"agent {told.type}" + (f": {one_line(text, WIDTH)}" if text else "")]
            case "reset":
                return [paint(f"events were missed: {event.read(Reset).reason}", "yellow", sys.stdout)]
            case "resumed":
                return [paint("connected again", "dim", sys.stdout)]
            case _:
                return [f"{event.kind} {event.change}"]

    def _message(self, message: Message) -> list[str]:
        """A user's and a tool's message at once; an assistant's when it has ended, its tool calls as they come."""
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
        told = self._told.get(message.id, 0)
        lines += [f"{where} tool {call.name} called: {one_line(call.input, WIDTH)}" for call in calls[told:]]
        self._told[message.id] = len(calls)
        if finish is None:
            return lines
        del self._told[message.id]
        text = one_line(text_of(message), WIDTH)
        end = "" if finish.reason in ("end_turn", "tool_use") else f" [{finish.reason}]"
        return [*lines, f"{where} assistant: {text}{end}"] if text or end else lines


def _run_complete(complete: RunComplete) -> str:
    if complete.cancelled:
        return paint(f"run {complete.run_id} cancelled", "yellow", sys.stdout)
    if complete.error:
        return paint(f"run {complete.run_id} failed: {one_line(complete.error, WIDTH)}", "red", sys.stdout)
    return paint(f"run {complete.run_id} completed", "green", sys.stdout)
