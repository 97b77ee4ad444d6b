"""Implement `bulkhead run`: send a prompt, print the answer as it arrives, exit with the outcome of the run."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import msgspec

from protocol.api.agent import AgentEvent, Run, RunComplete
from protocol.api.message import Attachment, Message
from protocol.api.permission import PermissionNotification, PermissionRequest
from protocol.api.session import Session
from protocol.api.workspace import WorkspaceState
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError
from supervisor.cli.autostart import start_server
from supervisor.cli.common_options import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    ServerTarget,
    directory,
    find_server,
    json_option,
    perform,
    server_options,
    silence_stdout,
)
from supervisor.cli.prompt_input import read_attachments, read_prompt
from supervisor.cli.terminal.formatting import note, strip_controls
from supervisor.cli.terminal.permission_prompt import Action, PermissionPrompt, open_terminal
from supervisor.cli.terminal.run_output import RunOutput, Text, text_of
from supervisor.client.events import RESUMED, EventStream, StreamEvent

Policy = Literal["ask", "deny", "allow"]

CANCEL_S = 30.0
"""How long to wait for the run's end after a cancel; longer than the server's own budget for it."""

EPILOG = """\b
Examples:
  bulkhead run "explain this project"
  git diff | bulkhead run "review this"      the prompt, then the piped text
  bulkhead run --file notes.md "summarise"   attaches a file; --image attaches a picture
  bulkhead run --continue "and the tests?"   continues the newest session
  bulkhead run --permissions allow "fix the typo in README.md"
  bulkhead run --json "hello" | jq -r .type
\b
The answer goes to standard output, everything else to standard error. Tools that need permission
ask at the terminal; without a terminal they are denied. Exit codes: 0 completed, 1 failed or
interrupted, 2 bad usage, 130 cancelled. Ctrl-C cancels this run only; pressed twice it quits at once.
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", nargs=-1)
@click.option("--session", "session_id", metavar="ID", help="Continue this session.")
@click.option("--continue", "is_continued", is_flag=True, help="Continue the newest session.")
@click.option(
    "-C",
    "--cwd",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory of the workspace; default: the current directory.",
)
@click.option(
    "--file",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Attach a text file. May be repeated.",
)
@click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Attach a PNG, JPEG, GIF or WebP image. May be repeated.",
)
@click.option("--yolo", is_flag=True, help="Let all tools of this workspace run without asking until this run ends.")
@click.option(
    "--permissions",
    type=click.Choice(["ask", "deny", "allow"]),
    help="What to do when a tool of this run needs permission. Default: ask at a terminal, else deny.",
)
@json_option
@server_options
def run(
    prompt: tuple[str, ...],
    session_id: str | None,
    is_continued: bool,
    cwd: Path | None,
    files: tuple[Path, ...],
    images: tuple[Path, ...],
    yolo: bool,
    permissions: Policy | None,
    as_json: bool,
    host: str | None,
    token_file: Path | None,
) -> None:
    """Send a prompt and print the answer as it arrives.

    The prompt is PROMPT followed by standard input, if that is a pipe, or if PROMPT is missing or ends with `-`. Starts
    a server if none is running; that server exits when it has been idle for a minute.
    """
    attachments = read_attachments(files, images)
    text = read_prompt(prompt)
    if session_id and is_continued:
        raise click.UsageError("choose one of --session and --continue")

    async def work() -> int:
        target = find_server(host, token_file)
        terminal = open_terminal() if permissions == "ask" or (permissions is None and not as_json) else None
        if permissions == "ask" and terminal is None:
            raise click.UsageError("--permissions ask needs a terminal; use deny or allow")
        policy: Policy = permissions or ("deny" if terminal is None else "ask")
        request = _Request(text, attachments, policy)
        one_shot = _OneShot(target, directory(cwd), request, as_json=as_json, terminal=terminal)
        return await one_shot.run(session_id, is_continued=is_continued, yolo=yolo)

    perform(work())


@dataclass(frozen=True)
class _Request:
    """What is submitted."""

    prompt: str
    attachments: list[Attachment]
    policy: Policy


class _OneShot:
    """Submits one prompt and follows its run to the end."""

    def __init__(
        self, target: ServerTarget, path: Path, request: _Request, *, as_json: bool, terminal: int | None
    ) -> None:
        self._target = target
        self._path = path
        self._request = request
        self._as_json = as_json
        self._terminal = terminal
        self._permission_prompt: PermissionPrompt | None = None
        self._sessions: set[str] = set()  # the run's own, and those of its sub-agents
        self._api = target.api()
        self._tasks = TaskOwner("run", logging.getLogger("bulkhead.run"))
        self._run_id = self._api.new_run_id()
        self._workspace_id = ""
        self._session_id = ""
        self._is_submitted = False
        self._interrupts = 0
        self._last_state = ""

    async def run(self, session_id: str | None, *, is_continued: bool, yolo: bool) -> int:
        """Run the prompt and return the exit code."""
        main = asyncio.current_task()
        assert main is not None
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted, main)
        if self._terminal is not None:
            self._permission_prompt = PermissionPrompt(self._terminal, self._decided)
        try:
            await self._find_server()
            workspace = await self._api.create_workspace(self._path)
            self._workspace_id = workspace.id
            async with self._permissions(yolo):
                await self._note_model()
                is_new = await self._choose_session(session_id, is_continued)
                return await self._prompt_and_follow(is_new)
        except asyncio.CancelledError:
            if not self._interrupts:
                raise
            return EXIT_INTERRUPTED
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            if self._permission_prompt is not None:
                await self._permission_prompt.close()
            await self._tasks.close()
            if self._workspace_id and self._interrupts < 2:
                await self._retire()

    async def _find_server(self) -> None:
        if not self._target.is_default or await self._api.is_healthy():
            return
        note("no server is running: starting one that exits when idle")
        await start_server(self._target.address, self._api, os.environ)

    @asynccontextmanager
    async def _permissions(self, yolo: bool) -> AsyncIterator[None]:
        """Switch skip mode on for the duration of the block, unless it was on already."""
        if not yolo or await self._api.skips_permissions(self._workspace_id):
            yield
            return
        await self._api.skip_permissions(self._workspace_id, True)
        try:
            yield
        finally:
            try:
                await self._api.skip_permissions(self._workspace_id, False)
            except BulkheadError as error:
                note(f"tools of this workspace may still run without asking: {error.message}", "yellow")

    async def _note_model(self) -> None:
        info = await self._api.agent_info(self._workspace_id)
        model = info.model_cfg
        if model.provider == "builtin":
            note("answered by the scripted model; README.md explains how to configure a real one")
        elif (model.provider, model.model) == ("local", "smollm2"):
            note(
                "answered by local/smollm2, a very small model on this machine that cannot use tools; "
                "README.md explains how to configure a larger one"
            )
        elif model.model:
            note(f"answered by {model.provider}/{model.model}")

    async def _choose_session(self, session_id: str | None, is_continued: bool) -> bool:
        """Set the session of the run; return True when it is a new one."""
        if session_id:
            self._session_id = (await self._api.session(self._workspace_id, session_id)).id
            return False
        if is_continued:
            sessions = await self._api.sessions(self._workspace_id)
            if sessions:
                self._session_id = sessions[0].id
                return False
            note("there is no session to continue: starting a new one")
        self._session_id = (await self._api.create_session(self._workspace_id, "")).id
        return True

    async def _prompt_and_follow(self, is_new: bool) -> int:
        async with self._api.events(self._workspace_id) as events:
            # From here on Ctrl-C cancels the run: the server knows its id even if the answer to the submit is lost.
            self._is_submitted = True
            await self._api.submit(
                self._workspace_id,
                self._session_id,
                self._request.prompt,
                attachments=self._request.attachments,
                run_id=self._run_id,
                permission_policy=self._request.policy,
            )
            self._sessions.add(self._session_id)
            if self._is_stopping():  # a cancel before the submit had nothing to cancel
                await self._cancel()
            if self._as_json:
                self._print(_accepted_line(self._workspace_id, self._session_id, self._run_id))
            view = RunOutput(self._session_id, self._request.prompt, is_open=is_new)
            return self._end(await self._follow(events, view), view)

    async def _follow(self, events: EventStream, view: RunOutput) -> RunComplete:
        """Show events until the run ends, and return its end."""
        while True:
            event = await events.next()
            if self._as_json and event.kind != RESUMED and self._is_ours(event):
                self._print(event.data.decode() + "\n")
            match event.kind:
                case "message":
                    await self._message(event.read(Message), view)
                case "run_complete" if (complete := event.read(RunComplete)).run_id == self._run_id:
                    return complete
                case "agent_event" if (progress := event.read(AgentEvent)).run_id == self._run_id:
                    if progress.type not in ("agent_finished", "error"):
                        note(f"{progress.type}: {progress.progress}".rstrip(": "))
                case "workspace_state":
                    self._workspace(event.read(WorkspaceState))
                case "session" if (session := event.read(Session)).parent_session_id in self._sessions:
                    self._sessions.add(session.id)
                case "permission_request":
                    self._requested(event.read(PermissionRequest))
                case "permission_notification" if self._permission_prompt is not None:
                    self._permission_prompt.notified(event.read(PermissionNotification))
                case "reset" | "resumed":
                    if self._permission_prompt is not None:
                        for request in await self._api.permissions(self._workspace_id):
                            self._requested(request)
                    if (missed := await self._missed_end()) is not None:
                        return missed

    def _requested(self, request: PermissionRequest) -> None:
        if self._permission_prompt is not None and request.session_id in self._sessions:
            self._permission_prompt.requested(request)

    async def _decided(self, request: PermissionRequest, action: Action) -> bool:
        return await self._api.grant(self._workspace_id, request, action)

    def _workspace(self, state: WorkspaceState) -> None:
        """Print a state that delays the answer, once."""
        line = f"workspace {state.state}" + (f": {state.reason}" if state.reason else "")
        if state.state in ("degraded", "restarting", "failed", "closing") and line != self._last_state:
            note(line, "yellow")
        self._last_state = line

    async def _message(self, message: Message, view: RunOutput) -> None:
        if view.may_begin(message) and (await self._state()).state in ("active", "ended"):
            view.is_open = True
        if self._as_json:
            return
        for shown in view.take(message):
            if isinstance(shown, Text):
                self._print(strip_controls(shown.text, sys.stdout))
            else:
                note(shown.text)

    async def _state(self) -> Run:
        return await self._api.run(self._workspace_id, self._run_id)

    async def _missed_end(self) -> RunComplete | None:
        """Return the end of the run, if it happened while the event stream was interrupted."""
        run = await self._state()
        if run.state != "ended":
            return None
        rows = await self._api.messages(self._workspace_id, self._session_id)
        row = next((row for row in rows if row.id == run.message_id), None)
        return RunComplete(
            session_id=run.session_id,
            message_id=run.message_id,
            run_id=run.id,
            text=text_of(row) if row is not None else "",
            error=run.cause or run.outcome if run.outcome in ("failed", "interrupted") else "",
            cancelled=run.outcome == "cancelled",
        )

    def _end(self, complete: RunComplete, view: RunOutput) -> int:
        if not self._as_json:
            for shown in view.finish(complete):
                if isinstance(shown, Text):
                    self._print(strip_controls(shown.text, sys.stdout))
                else:
                    note(shown.text)
        if complete.cancelled:
            note("cancelled", "yellow")
            return EXIT_INTERRUPTED
        if complete.error:
            note(f"bulkhead: {complete.error}", "red")
            return EXIT_FAILED
        return 0

    def _print(self, text: str) -> None:
        """Write to standard output. Raises BrokenPipeError when its reader has closed it."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            silence_stdout()
            note(f"standard output was closed; the run continues (`bulkhead cancel {self._run_id}` ends it)")
            raise

    def _is_ours(self, event: StreamEvent) -> bool:
        """Return whether this event is about the session of the run, or about the whole workspace."""
        payload = event.read(_AboutSession)
        session_id = payload.id if event.kind == "session" else payload.session_id
        return session_id in ("", self._session_id)

    def _interrupted(self, main: "asyncio.Task[object]") -> None:
        self._interrupts += 1
        if self._interrupts > 1 or not self._is_submitted:
            main.cancel()
            return
        note("cancelling; press Ctrl-C again to quit now", "yellow")
        self._tasks.start(self._cancel_and_wait(main), "cancel")

    def _is_stopping(self) -> bool:
        return self._interrupts > 0

    async def _cancel_and_wait(self, main: "asyncio.Task[object]") -> None:
        await self._cancel()
        await asyncio.sleep(CANCEL_S)
        note(
            f"the run did not end within {CANCEL_S:g} s after the cancel; `bulkhead runs` shows what happens to it",
            "red",
        )
        main.cancel()

    async def _cancel(self) -> None:
        try:
            await self._api.cancel(self._workspace_id, self._session_id, run_id=self._run_id)
        except BulkheadError as error:
            note(f"cannot cancel: {error.message}", "red")

    async def _retire(self) -> None:
        try:
            await self._api.retire()
        except BulkheadError:
            pass  # the client's lease expires by itself a little later


class _AboutSession(msgspec.Struct, frozen=True):
    id: str = ""
    session_id: str = ""


def _accepted_line(workspace_id: str, session_id: str, run_id: str) -> str:
    """Return the first line of `--json`: not an event of the server, but the ids that a script needs."""
    payload = {"workspace_id": workspace_id, "session_id": session_id, "run_id": run_id}
    line = {"type": "run_accepted", "payload": {"type": "created", "payload": payload}}
    return msgspec.json.encode(line).decode() + "\n"
