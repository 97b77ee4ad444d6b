"""Talk to one process of a language server: send requests and notifications, answer the server's own requests.

The size of a message, the number of open requests and the time of each are limited.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
RETRIES_MAX = 3
REGISTERED_MAX = 100


class LspError(Exception):
    """A request to the server failed; the text says why."""


class _RetryRequested(LspError):
    """The server was interrupted by a change and asks for the request to be sent again."""


class _ConfigurationItem(msgspec.Struct, frozen=True):
    section: str = ""


class _ConfigurationParams(msgspec.Struct, frozen=True):
    items: list[_ConfigurationItem] = []


class _Registration(msgspec.Struct, frozen=True):
    method: str = ""


class _RegistrationParams(msgspec.Struct, frozen=True):
    registrations: list[_Registration] = []


@dataclass(frozen=True)
class ConnectionCallbacks:
    """What to call when the server sends diagnostics, asks for them to be pulled again, or registers a method."""

    on_diagnostics: Callable[[Published], None]
    on_refresh: Callable[[], None]
    on_registered: Callable[[], None]


class Connection:
    """The connection to one process of the server: `feed` receives its output, `write` sends it input.

    `settings` and `folders` answer the server's requests for its configuration and the workspace folders.
    """

    def __init__(
        self,
        name: str,
        *,
        write: Callable[[bytes], None],
        settings: Mapping[str, object],
        folders: list[dict[str, str]],
        callbacks: ConnectionCallbacks,
        limits: Limits,
        log: logging.Logger,
    ) -> None:
        self._name = name
        self._write = write
        self._settings = settings
        self._folders = folders
        self._callbacks = callbacks
        self._limits = limits
        self._log = log
        self._framer = Framer(limits.lsp_message_max_bytes)
        self._pending: dict[int, asyncio.Future[Incoming]] = {}
        self._last_id = 0
        self.registered: frozenset[str] = frozenset()
        """Methods that the server registered after `initialize`."""
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolves to the reason when the connection is over."""

    # --- outgoing ---------------------------------------------------------------------------------------------------

    async def request(self, method: str, params: object, result: Decoder[T], *, timeout_s: float) -> T:
        """Send a request and return the decoded result. Raises LspError for an error, a timeout, an unreadable result.

        The request is sent again when the server reports that a change interrupted it.
        """
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(RETRIES_MAX):
                    try:
                        return await self._request_once(method, params, result)
                    except _RetryRequested:
                        pass
                return await self._request_once(method, params, result)
        except TimeoutError:
            raise LspError(f"{self._name} did not answer {method} within {timeout_s:g} s") from None

    async def _request_once(self, method: str, params: object, result: Decoder[T]) -> T:
        if len(self._pending) >= self._limits.lsp_pending_max:
            raise LspError(f"{self._name} already has {len(self._pending)} unanswered requests")
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
                raise _RetryRequested(f"{self._name}: {message.error.message[:500]}")
            raise LspError(f"{self._name}: {message.error.message[:500] or f'error {message.error.code}'}")
        try:
            return result.decode(message.result)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise LspError(f"cannot read the response of {self._name} to {method}: {error}") from None

    def notify(self, method: str, params: object) -> None:
        """Send a notification. If it cannot be sent, `broken` says why."""
        try:
            self._send({"method": method, "params": params})
        except LspError:
            pass

    def _send(self, message: Mapping[str, object]) -> None:
        if self.broken.done():
            raise LspError(f"{self._name} has ended: {self.broken.result()}")
        try:
            self._write(encode(message))
        except OSError as error:
            self.fail(str(error))
            raise LspError(f"{self._name} has ended: {error}") from None

    # --- incoming ---------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Process the next bytes of the server's output."""
        if self.broken.done():
            return
        skipped, unreadable = self._framer.skipped, self._framer.unreadable
        try:
            messages = self._framer.feed(data)
        except BadFrame as error:
            self.fail(f"its output cannot be read: {error}")
            return
        if (self._framer.skipped, self._framer.unreadable) != (skipped, unreadable):
            self._log.warning("left out a message of a language server", extra=fields(server=self._name))
        for message in messages:
            self._dispatch(message)

    def fail(self, reason: str) -> None:
        """End the connection: all open requests fail with this reason."""
        if self.broken.done():
            return
        self.broken.set_result(reason)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(LspError(f"{self._name} has ended: {reason}"))

    def _dispatch(self, message: Incoming) -> None:
        if message.method and message.id is not None:
            self._answer(message)
        elif message.method:
            self._handle_notification(message)
        elif isinstance(message.id, int):
            future = self._pending.get(message.id)
            if future is not None and not future.done():
                future.set_result(message)

    def _handle_notification(self, message: Incoming) -> None:
        match message.method:
            case "textDocument/publishDiagnostics":
                try:
                    self._callbacks.on_diagnostics(msgspec.json.decode(message.params, type=Published))
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
        """Answer a request of the server. Its own edits are refused: writing needs the user's permission."""
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
                self._callbacks.on_refresh()
            case "client/registerCapability":
                self.registered |= _registered(message.params)
                self._callbacks.on_registered()
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
                reply["error"] = {"code": _NO_METHOD, "message": f"{message.method[:100]} is not supported"}
        try:
            self._send(reply)
        except LspError:
            pass

    def _sections(self, params: msgspec.Raw) -> list[object]:
        try:
            items = msgspec.json.decode(params, type=_ConfigurationParams).items
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return []
        return [section_of(self._settings, item.section) for item in items]


def _registered(params: msgspec.Raw) -> frozenset[str]:
    try:
        registrations = msgspec.json.decode(params, type=_RegistrationParams).registrations
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return frozenset()
    return frozenset(one.method for one in registrations[:REGISTERED_MAX])


def section_of(settings: Mapping[str, object], section: str) -> object:
    """Return the part of the settings under a dotted name, as one key or as a path; None if there is none."""
    if not section:
        return settings
    if section in settings:
        return settings[section]
    value: object = settings
    for name in section.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value
