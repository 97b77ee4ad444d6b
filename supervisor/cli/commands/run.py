"""`bulkhead run`: send a prompt, print the answer as it comes, leave with what became of it."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import click
import msgspec

from protocol.api.agent import AgentEvent, Run, RunComplete
from protocol.api.message import Message
from protocol.api.permission import PermissionNotification, PermissionRequest
from protocol.api.session import Session
from protocol.api.workspace import WorkspaceState
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError
from supervisor.cli.autostart import start_private
from supervisor.cli.common_options import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Door,
    directory,
    find_door,
    hush,
    json_option,
    perform,
    server_options,
)
from supervisor.cli.terminal.formatting import note, tame
from supervisor.cli.terminal.permission_prompt import Action, Consent, open_terminal
from supervisor.cli.terminal.run_output import AnswerView, Text, text_of
from supervisor.client.events import RESUMED, EventStream, StreamEvent

Policy = Literal["ask", "deny", "allow"]

CANCEL_S = 30.0
"""After a cancel the run's end is awaited for so long: the server's own budget for it is shorter."""

EPILOG = """\b
Examples:
  bulkhead run "explain this project"
  git diff | bulkhead run "review this"      the prompt, then what was piped in
  bulkhead run --continue "and the tests?"   goes on in the newest session
  bulkhead run --permissions allow "fix the typo in README.md"
  bulkhead run --json "hello" | jq -r .type
\b
The answer goes to standard output, everything else to standard error. Tools that need permission
ask at the terminal; where there is none they are denied. Exit codes: 0 completed, 1 failed or
interrupted, 2 bad usage, 130 cancelled. Ctrl-C cancels this run and no other; twice leaves at once.
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", nargs=-1)
@click.option("--session", "session_id", metavar="ID", help="Go on in this session.")
@click.option("--continue", "is_continued", is_flag=True, help="Go on in the newest session.")
@click.option("-C", "--cwd", type=click.Path(path_type=Path), metavar="DIR", help="The workspace; default: here.")
@click.option("--yolo", is_flag=True, help="Let tools of this workspace run without asking, until this run has ended.")
@click.option(
    "--permissions",
    type=click.Choice(["ask", "deny", "allow"]),
    help="What becomes of tools that need permission: you are asked, or all are denied or allowed for this run. "
    "Default: ask at a terminal, else deny.",
)
@json_option
@server_options
def run(
    prompt: tuple[str, ...],
    session_id: str | None,
    is_continued: bool,
    cwd: Path | None,
    yolo: bool,
    permissions: Policy | None,
    as_json: bool,
    host: str | None,
    token_file: Path | None,
) -> None:
    """Send a prompt and print the answer as it comes.

    Without a server one is started; it leaves by itself when nobody has needed it for a minute.
    """
    text = _prompt_text(prompt)
    if session_id and is_continued:
        raise click.UsageError("choose one of --session and --continue")

    async def work() -> int:
        door = find_door(host, token_file)
        terminal = open_terminal() if permissions == "ask" or (permissions is None and not as_json) else None
        if permissions == "ask" and terminal is None:
            raise click.UsageError("--permissions ask needs a terminal; use deny or allow, or answer from elsewhere")
        policy: Policy = permissions or ("deny" if terminal is None else "ask")
        one_shot = _OneShot(door, directory(cwd), text, as_json=as_json, policy=policy, terminal=terminal)
        return await one_shot.run(session_id, is_continued=is_continued, yolo=yolo)

    perform(work())


def _prompt_text(words: tuple[str, ...]) -> str:
    """The prompt: the words, then what was piped in when there are no words or the last of them is `-`."""
    wants_input = not words or words[-1] == "-"
    parts = [" ".join(words[:-1] if words and wants_input else words)]
    if wants_input:
        if sys.stdin.isatty() and not words:
            raise click.UsageError('a prompt is needed: bulkhead run "…", or pipe it in')
        parts.append(sys.stdin.buffer.read().decode(errors="replace").rstrip("\n"))
    text = "\n\n".join(part for part in parts if part.strip())
    if not text:
        raise click.UsageError("the prompt is empty")
    return text


class _OneShot:
    """One prompt from here to its end."""

    def __init__(
        self, door: Door, path: Path, prompt: str, *, as_json: bool, policy: Policy, terminal: int | None
    ) -> None:
        self._door = door
        self._path = path
        self._prompt = prompt
        self._as_json = as_json
        self._policy: Policy = policy
        self._terminal = terminal
        self._consent: Consent | None = None
        self._sessions: set[str] = set()  # ours, and those of the agents that work for it
        self._api = door.api()
        self._tasks = TaskOwner("run", logging.getLogger("bulkhead.run"))
        self._run_id = self._api.new_run_id()
        self._workspace_id = ""
        self._session_id = ""
        self._is_submitted = False
        self._asked_to_stop = 0
        self._last_state = ""

    async def run(self, session_id: str | None, *, is_continued: bool, yolo: bool) -> int:
        """The exit code."""
        main = asyncio.current_task()
        assert main is not None
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted, main)
        if self._terminal is not None:
            self._consent = Consent(self._terminal, self._decided)
        try:
            await self._find_server()
            workspace = await self._api.create_workspace(self._path)
            self._workspace_id = workspace.id
            async with self._permissions(yolo):
                await self._say_who_answers()
                is_new = await self._choose_session(session_id, is_continued)
                return await self._prompt_and_follow(is_new)
        except asyncio.CancelledError:
            if not self._asked_to_stop:
                raise
            return EXIT_INTERRUPTED
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            if self._consent is not None:
                await self._consent.close()
            await self._tasks.close()
            if self._workspace_id and self._asked_to_stop < 2:
                await self._retire()

    async def _find_server(self) -> None:
        if not self._door.is_default or await self._api.is_healthy():
            return
        note("no server is running: starting one that leaves by itself when idle")
        await start_private(self._door.address, self._api, os.environ)

    @asynccontextmanager
    async def _permissions(self, yolo: bool) -> AsyncIterator[None]:
        """Skip mode for as long as this lasts, where it was not on already."""
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

    async def _say_who_answers(self) -> None:
        info = await self._api.agent_info(self._workspace_id)
        chosen = info.model_cfg
        if chosen.provider == "builtin":
            note("answered by the scripted model, which does not think; README: how to configure a real one")
        elif (chosen.provider, chosen.model) == ("local", "smollm2"):
            note(
                "answered by local/smollm2, a very small model on this machine that talks but uses no tools; "
                "README: how to configure a real one"
            )
        elif chosen.model:
            note(f"answered by {chosen.provider}/{chosen.model}")

    async def _choose_session(self, session_id: str | None, is_continued: bool) -> bool:
        """Sets the session; True when it is a new one."""
        if session_id:
            self._session_id = (await self._api.session(self._workspace_id, session_id)).id
            return False
        if is_continued:
            sessions = await self._api.sessions(self._workspace_id)
            if sessions:
                self._session_id = sessions[0].id
                return False
            note("there is no session to continue: this is a new one")
        self._session_id = (await self._api.create_session(self._workspace_id, "")).id
        return True

    async def _prompt_and_follow(self, is_new: bool) -> int:
        async with self._api.events(self._workspace_id) as events:
            # From here on an interrupt is a cancel of the run: the server knows it by our id, answered or not.
            self._is_submitted = True
            await self._api.submit(
                self._workspace_id,
                self._session_id,
                self._prompt,
                run_id=self._run_id,
                permission_policy=self._policy,
            )
            self._sessions.add(self._session_id)
            if self._is_stopping():  # that cancel may have come before the prompt, and then it found nothing
                await self._cancel()
            if self._as_json:
                self._print(_accepted_line(self._workspace_id, self._session_id, self._run_id))
            view = AnswerView(self._session_id, self._prompt, is_open=is_new)
            return self._end(await self._follow(events, view), view)

    async def _follow(self, events: EventStream, view: AnswerView) -> RunComplete:
        """Show events until the run has ended."""
        while True:
            event = await events.next()
            if self._as_json and event.kind != RESUMED and self._is_ours(event):
                self._print(event.data.decode() + "\n")
            match event.kind:
                case "message":
                    await self._message(event.read(Message), view)
                case "run_complete" if (complete := event.read(RunComplete)).run_id == self._run_id:
                    return complete
                case "agent_event" if (told := event.read(AgentEvent)).run_id == self._run_id:
                    if told.type not in ("agent_finished", "error"):
                        note(f"{told.type}: {told.progress}".rstrip(": "))
                case "workspace_state":
                    self._workspace(event.read(WorkspaceState))
                case "session" if (session := event.read(Session)).parent_session_id in self._sessions:
                    self._sessions.add(session.id)
                case "permission_request":
                    self._requested(event.read(PermissionRequest))
                case "permission_notification" if self._consent is not None:
                    self._consent.notified(event.read(PermissionNotification))
                case "reset" | "resumed":
                    for request in await self._api.permissions(self._workspace_id) if self._consent is not None else ():
                        self._requested(request)
                    if (ended := await self._ended_meanwhile()) is not None:
                        return ended

    def _requested(self, request: PermissionRequest) -> None:
        if self._consent is not None and request.session_id in self._sessions:
            self._consent.requested(request)

    async def _decided(self, request: PermissionRequest, action: Action) -> bool:
        return await self._api.grant(self._workspace_id, request, action)

    def _workspace(self, state: WorkspaceState) -> None:
        """Tell of what keeps the answer waiting, once."""
        words = f"workspace {state.state}" + (f": {state.reason}" if state.reason else "")
        if state.state in ("degraded", "restarting", "failed", "closing") and words != self._last_state:
            note(words, "yellow")
        self._last_state = words

    async def _message(self, message: Message, view: AnswerView) -> None:
        if view.may_begin(message) and (await self._state()).state in ("active", "ended"):
            view.is_open = True
        if self._as_json:
            return
        for shown in view.take(message):
            if isinstance(shown, Text):
                self._print(tame(shown.text, sys.stdout))
            else:
                note(shown.text)

    async def _state(self) -> Run:
        return await self._api.run(self._workspace_id, self._run_id)

    async def _ended_meanwhile(self) -> RunComplete | None:
        """The end of the run, if it came while nobody listened."""
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

    def _end(self, complete: RunComplete, view: AnswerView) -> int:
        if not self._as_json:
            for shown in view.finish(complete):
                if isinstance(shown, Text):
                    self._print(tame(shown.text, sys.stdout))
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
        """To standard output. Raises BrokenPipeError when nobody reads it any more."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            hush()
            note(f"nobody reads the answer any more; the run goes on (`bulkhead cancel {self._run_id}` ends it)")
            raise

    def _is_ours(self, event: StreamEvent) -> bool:
        """Is this event about our session, or about the whole workspace?"""
        told = event.read(_AboutSession)
        session_id = told.id if event.kind == "session" else told.session_id
        return session_id in ("", self._session_id)

    def _interrupted(self, main: "asyncio.Task[object]") -> None:
        self._asked_to_stop += 1
        if self._asked_to_stop > 1 or not self._is_submitted:
            main.cancel()
            return
        note("cancelling; once more to leave at once", "yellow")
        self._tasks.start(self._cancel_and_wait(main), "cancel")

    def _is_stopping(self) -> bool:
        return self._asked_to_stop > 0

    async def _cancel_and_wait(self, main: "asyncio.Task[object]") -> None:
        await self._cancel()
        await asyncio.sleep(CANCEL_S)
        note(
            f"the run has not ended within {CANCEL_S:g} s of its cancel; `bulkhead runs` shows what becomes of it",
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
            pass  # our claim ends by itself a little later


class _AboutSession(msgspec.Struct, frozen=True):
    id: str = ""
    session_id: str = ""


def _accepted_line(workspace_id: str, session_id: str, run_id: str) -> str:
    """Not an event of the server: the ids that a script needs to go on."""
    payload = {"workspace_id": workspace_id, "session_id": session_id, "run_id": run_id}
    line = {"type": "run_accepted", "payload": {"type": "created", "payload": payload}}
    return msgspec.json.encode(line).decode() + "\n"
