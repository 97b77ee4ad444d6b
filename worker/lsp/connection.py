"""One conversation with a language server: requests with their answers, notifications, and what the server asks for.

Everything is bounded: the size of a message, how many requests wait, and how long each does.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
from msgspec.json import Decoder

from protocol.base.logs import fields
from protocol.limits import Limits
from worker.lsp.framing import BadFrame, Framer, Incoming, encode
from worker.lsp.types import Published

T = TypeVar("T")

_NO_METHOD = -32601
_CONTENT_MODIFIED = -32801
_SERVER_CANCELLED = -32802
REPEATS_MAX = 3
REGISTERED_MAX = 100


class LspError(Exception):
    """The server did not do what it was asked for; the text says why."""


class _Repeat(LspError):
    """The server was disturbed by a change and wants to be asked again."""


class _Item(msgspec.Struct, frozen=True):
    section: str = ""


class _Asked(msgspec.Struct, frozen=True):
    items: list[_Item] = []


class _Registration(msgspec.Struct, frozen=True):
    method: str = ""


class _Registrations(msgspec.Struct, frozen=True):
    registrations: list[_Registration] = []


class Connection:
    """Lives as long as one process of the server. `feed` is given its output, `write` takes what goes to it."""

    def __init__(
        self,
        name: str,
        *,
        write: Callable[[bytes], None],
        settings: Mapping[str, object],
        folders: list[dict[str, str]],
        on_diagnostics: Callable[[Published], None],
        on_refresh: Callable[[], None],
        on_registered: Callable[[], None],
        limits: Limits,
        log: logging.Logger,
    ) -> None:
        self._name = name
        self._write = write
        self._settings = settings
        self._folders = folders
        self._on_diagnostics = on_diagnostics
        self._on_refresh = on_refresh
        self._on_registered = on_registered
        self._limits = limits
        self._log = log
        self._framer = Framer(limits.lsp_message_max_bytes)
        self._pending: dict[int, asyncio.Future[Incoming]] = {}
        self._last_id = 0
        self.registered: frozenset[str] = frozenset()
        """Methods that the server began to offer after its greeting."""
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done with the reason when this conversation cannot go on."""

    # --- what we ask ------------------------------------------------------------------------------------------------

    async def request(self, method: str, params: object, answer: Decoder[T], *, timeout_s: float) -> T:
        """The answer to one request. Raises LspError when there is none within `timeout_s`, or none that can be read.

        A server that was disturbed by a change (it says so by a code of its own) is asked again.
        """
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(REPEATS_MAX):
                    try:
                        return await self._ask(method, params, answer)
                    except _Repeat:
                        pass
                return await self._ask(method, params, answer)
        except TimeoutError:
            raise LspError(f"{self._name} did not answer {method} within {timeout_s:g} s") from None

    async def _ask(self, method: str, params: object, answer: Decoder[T]) -> T:
        if len(self._pending) >= self._limits.lsp_pending_max:
            raise LspError(f"{self._name} has {len(self._pending)} requests to answer already")
        self._last_id += 1
        number = self._last_id
        future: asyncio.Future[Incoming] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            self._send({"id": number, "method": method, "params": params})
            message = await future
        except asyncio.CancelledError:
            if not self.broken.done():
                self.notify("$/cancelRequest", {"id": number})
            raise
        finally:
            self._pending.pop(number, None)
        if message.error is not None:
            if message.error.code in (_CONTENT_MODIFIED, _SERVER_CANCELLED):
                raise _Repeat(f"{self._name}: {message.error.message[:500]}")
            raise LspError(f"{self._name}: {message.error.message[:500] or f'error {message.error.code}'}")
        try:
            return answer.decode(message.result)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise LspError(f"cannot read what {self._name} answers to {method}: {error}") from None

    def notify(self, method: str, params: object) -> None:
        """Tell the server something. What cannot be sent any more is told by `broken`."""
        try:
            self._send({"method": method, "params": params})
        except LspError:
            pass

    def _send(self, message: Mapping[str, object]) -> None:
        if self.broken.done():
            raise LspError(f"{self._name} is gone: {self.broken.result()}")
        try:
            self._write(encode(message))
        except OSError as error:
            self.fail(str(error))
            raise LspError(f"{self._name} is gone: {error}") from None

    # --- what comes -------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """The next piece of the server's output."""
        if self.broken.done():
            return
        skipped, unreadable = self._framer.skipped, self._framer.unreadable
        try:
            messages = self._framer.feed(data)
        except BadFrame as error:
            self.fail(f"what it sends cannot be read: {error}")
            return
        if (self._framer.skipped, self._framer.unreadable) != (skipped, unreadable):
            self._log.warning("left out a message of a language server", extra=fields(server=self._name))
        for message in messages:
            self._take(message)

    def fail(self, reason: str) -> None:
        """The conversation is over; whoever waits for an answer is told."""
        if self.broken.done():
            return
        self.broken.set_result(reason)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(LspError(f"{self._name} is gone: {reason}"))

    def _take(self, message: Incoming) -> None:
        if message.method and message.id is not None:
            self._answer(message)
        elif message.method:
            self._heard(message)
        elif isinstance(message.id, int):
            future = self._pending.get(message.id)
            if future is not None and not future.done():
                future.set_result(message)

    def _heard(self, message: Incoming) -> None:
        match message.method:
            case "textDocument/publishDiagnostics":
                try:
                    self._on_diagnostics(msgspec.json.decode(message.params, type=Published))
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    self._log.warning("cannot read diagnostics", extra=fields(server=self._name))
            case "window/logMessage" | "window/showMessage":
                self._log.debug(
                    "language server says",
                    extra=fields(server=self._name, text=bytes(message.params)[:500].decode("utf-8", "replace")),
                )
            case _:
                pass

    def _answer(self, message: Incoming) -> None:
        """What the server wants of us. It may not write: edits of its own are refused (W-54)."""
        reply: dict[str, object] = {"id": message.id, "result": None}
        match message.method:
            case "workspace/configuration":
                reply["result"] = self._sections(message.params)
            case "workspace/workspaceFolders":
                reply["result"] = self._folders
            case "workspace/applyEdit":
                self._log.info("refused edits of a language server", extra=fields(server=self._name))
                reply["result"] = {"applied": False, "failureReason": "edits need the user's permission"}
            case "workspace/diagnostic/refresh":
                self._on_refresh()
            case "client/registerCapability":
                self.registered |= _registered(message.params)
                self._on_registered()
            case (
                "client/unregisterCapability"
                | "window/workDoneProgress/create"
                | "window/showMessageRequest"
                | "workspace/semanticTokens/refresh"
                | "workspace/inlayHint/refresh"
                | "workspace/codeLens/refresh"
            ):
                pass
            case _:
                del reply["result"]
                reply["error"] = {"code": _NO_METHOD, "message": f"{message.method[:100]} is not offered"}
        try:
            self._send(reply)
        except LspError:
            pass

    def _sections(self, params: msgspec.Raw) -> list[object]:
        try:
            items = msgspec.json.decode(params, type=_Asked).items
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return []
        return [section_of(self._settings, item.section) for item in items]


def _registered(params: msgspec.Raw) -> frozenset[str]:
    try:
        found = msgspec.json.decode(params, type=_Registrations).registrations
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return frozenset()
    return frozenset(one.method for one in found[:REGISTERED_MAX])


def section_of(settings: Mapping[str, object], section: str) -> object:
    """The part of the settings with a dotted name: by steps, or as one key; None when there is none."""
    if not section:
        return settings
    if section in settings:
        return settings[section]
    found: object = settings
    for name in section.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found
