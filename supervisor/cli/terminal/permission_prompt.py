"""Ask at the terminal whether a tool may act, one request at a time.

Answers are read from the terminal itself, because standard input may be a pipe with the prompt in it.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Literal

from protocol.api.permission import PermissionNotification, PermissionRequest
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError
from supervisor.cli.terminal.diff import short_diff
from supervisor.cli.terminal.formatting import note, one_line

Action = Literal["allow", "allow_session", "deny"]
PromptAnswer = Callable[[PermissionRequest, Action], Awaitable[bool]]

TERMINAL = "/dev/tty"
WIDTH = 160
WORDS: dict[str, Action] = {"y": "allow", "yes": "allow", "n": "deny", "no": "deny", "a": "allow_session"}
WORDS["always"] = WORDS["a"]
_COLOURS = {"+": "green", "-": "red"}
_SHOWN = ("command", "file_path", "url", "path", "query")


def open_terminal() -> int | None:
    """Open the controlling terminal and return its descriptor; None when there is none."""
    try:
        return os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC) if sys.stderr.isatty() else None
    except OSError:
        return None


class PermissionPrompt:
    """Asks about the permission requests of one run. All methods but `close` are synchronous and run on the loop."""

    def __init__(self, terminal: int, answer: PromptAnswer) -> None:
        """`answer` sends a decision and returns False when another client was first. `close` closes `terminal`."""
        self._terminal = terminal
        self._answer = answer
        self._tasks = TaskOwner("permission_prompt", logging.getLogger("bulkhead.run"))
        self._waiting: list[PermissionRequest] = []
        self._task: asyncio.Task[None] | None = None
        self._line: asyncio.Future[str] | None = None
        asyncio.get_running_loop().add_reader(terminal, self._readable)

    def requested(self, request: PermissionRequest) -> None:
        """Queue a request of the run, once."""
        if any(other.id == request.id for other in self._waiting):
            return
        self._waiting.append(request)
        if self._task is None or self._task.done():
            self._task = self._tasks.start(self._work(), "ask")

    def notified(self, decision: PermissionNotification) -> None:
        """Drop a request that has been decided, by this client or another one."""
        if not decision.granted and not decision.denied:
            return
        first = self._waiting[0] if self._waiting else None
        if first is not None and first.tool_call_id == decision.tool_call_id and self._line is not None:
            self._receive("")
            note(f"{'allowed' if decision.granted else 'denied'} elsewhere")
        self._waiting = [other for other in self._waiting if other.tool_call_id != decision.tool_call_id]

    async def close(self) -> None:
        """Stop asking and close the terminal."""
        asyncio.get_running_loop().remove_reader(self._terminal)
        await self._tasks.close()
        os.close(self._terminal)

    async def _work(self) -> None:
        while self._waiting:
            request = self._waiting[0]
            action = await self._ask(request)
            if action is not None and self._waiting and self._waiting[0].id == request.id:
                del self._waiting[0]
                try:
                    if not await self._answer(request, action):
                        note("already answered elsewhere")
                except BulkheadError as error:
                    note(f"not answered: {error.message}", "yellow")

    async def _ask(self, request: PermissionRequest) -> Action | None:
        """Return the person's decision; None when the request was decided elsewhere."""
        note(f"? {request.tool_name} asks to {request.action}: {one_line(request.description, WIDTH)}", "yellow")
        params = request.params or {}
        for key in _SHOWN:
            if value := params.get(key):
                note(f"    {key}: {one_line(str(value), 10 * WIDTH)}", "yellow")
        if isinstance(old := params.get("old_content"), str) and isinstance(new := params.get("new_content"), str):
            for line in short_diff(old, new):
                note(f"    {line}", _COLOURS.get(line[:1], "dim"))
        while True:
            note("  [y]es, [n]o, [a]lways in this session?", "yellow")
            self._line = asyncio.get_running_loop().create_future()
            try:
                line = await self._line  # no timeout for a person; the end of the run ends this
            finally:
                self._line = None
            if not self._waiting or self._waiting[0].id != request.id:
                return None
            if (action := WORDS.get(line.strip().lower())) is not None:
                return action

    def _readable(self) -> None:
        """Read one line. A line that was typed while no question was open is discarded."""
        try:
            data = os.read(self._terminal, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # the terminal is closed
            asyncio.get_running_loop().remove_reader(self._terminal)
            self._receive("no")
        else:
            self._receive(data.decode(errors="replace"))

    def _receive(self, line: str) -> None:
        if self._line is not None and not self._line.done():
            self._line.set_result(line)
