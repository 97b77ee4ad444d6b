"""Typed calls of API v1: arguments to requests, answers to the shapes of protocol, errors to protocol's errors."""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from protocol.address import Address
from protocol.api.agent import Accepted, AgentInfo, Prompt, Run
from protocol.api.message import Message
from protocol.api.permission import Grant, PermissionPolicy, PermissionRequest, Resolved
from protocol.api.session import Session, WriteSession
from protocol.api.workspace import CreateWorkspace, WorkerStatus, Workspace
from protocol.errors import CODES, BulkheadError, ErrorInfo, Internal, Unavailable, from_info
from protocol.ids import new_uuid
from protocol.version import BULKHEAD_VERSION
from supervisor.client.events import EventStream
from supervisor.client.transport import ConnectionLost, HttpResponse, Transport

T = TypeVar("T")

CALL_S = 60.0
"""Longer than the server's own deadlines, so that its answer, not our clock, says what was wrong."""

HEALTH_S = 1.0
CREATE_S = 60.0
SUBMIT_ATTEMPTS = 3


class Version(msgspec.Struct, frozen=True):
    """`GET /v1/version`."""

    version: str = ""
    platform: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    message: str = ""
    code: str = ""


class _Skip(msgspec.Struct, frozen=True):
    skip: bool = False


class Api:
    """One client of one server. Every method raises what the server answers, Unreachable and ConnectionLost."""

    def __init__(self, address: Address, *, token: str = "", source: random.Random | None = None) -> None:
        self._source = source or random.SystemRandom()
        self._transport = Transport(address, token=token)
        self.address = address
        self.client_id = new_uuid(self._source)

    # --- the server -----------------------------------------------------------------------------------------------

    async def is_healthy(self) -> bool:
        """Does the server answer at once?"""
        try:
            answer = await self._transport.request("GET", "/v1/health", timeout_s=HEALTH_S)
        except (BulkheadError, TimeoutError):
            return False
        return 200 <= answer.head.status < 300

    async def version(self) -> Version:
        """Which server this is."""
        return await self._get("/v1/version", Version)

    async def workers(self, *, with_memory: bool = False) -> list[WorkerStatus]:
        """Every workspace with the state of its worker; `with_memory` also measures private memory."""
        return await self._get("/v1/workers", list[WorkerStatus], {"memory": "full"} if with_memory else {})

    async def retire(self) -> None:
        """Give up every claim of this client, for good."""
        await self._call("DELETE", f"/v1/clients/{self.client_id}", timeout_s=HEALTH_S * 2)

    # --- workspaces -----------------------------------------------------------------------------------------------

    async def create_workspace(self, path: Path) -> Workspace:
        """The workspace of a directory, registered if it was not, its worker ready.

        Waits on while the server says that the worker is still starting: on a cold disk that takes a while.
        """
        wish = CreateWorkspace(path=str(path), client_id=self.client_id, version=BULKHEAD_VERSION)
        deadline = asyncio.get_running_loop().time() + CREATE_S
        while True:
            try:
                return await self._send("POST", "/v1/workspaces", wish, Workspace)
            except Unavailable as error:
                if error.code != "worker_starting" or asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(error.retry_after_s or 0.5)

    async def restart(self, workspace_id: str) -> None:
        """Replace the worker; also the way out of `failed`."""
        await self._call("POST", _at(workspace_id, "restart"))

    async def skips_permissions(self, workspace_id: str) -> bool:
        """Do tools run without asking?"""
        return (await self._get(_at(workspace_id, "permissions", "skip"), _Skip)).skip

    async def skip_permissions(self, workspace_id: str, skip: bool) -> None:
        """Let tools run without asking, or not."""
        await self._call("POST", _at(workspace_id, "permissions", "skip"), msgspec.json.encode(_Skip(skip)))

    def events(self, workspace_id: str, *, cursor: str = "", patience_s: float = 30.0) -> EventStream:
        """The events of a workspace, from after `cursor` or from now on. See EventStream."""
        return EventStream(
            self._transport,
            f"{_at(workspace_id, 'events')}?{urlencode({'client_id': self.client_id, 'ids': '1'})}",
            source=self._source,
            error_of=error_of,
            cursor=cursor,
            patience_s=patience_s,
        )

    # --- sessions and messages ------------------------------------------------------------------------------------

    async def sessions(self, workspace_id: str) -> list[Session]:
        """The sessions of a workspace, newest first."""
        return await self._get(_at(workspace_id, "sessions"), list[Session])

    async def session(self, workspace_id: str, session_id: str) -> Session:
        """One session. Raises NotFound."""
        return await self._get(_at(workspace_id, "sessions", session_id), Session)

    async def create_session(self, workspace_id: str, title: str) -> Session:
        """A new session."""
        return await self._send("POST", _at(workspace_id, "sessions"), WriteSession(title=title), Session)

    async def messages(self, workspace_id: str, session_id: str) -> list[Message]:
        """The conversation, oldest first."""
        return await self._get(_at(workspace_id, "sessions", session_id, "messages"), list[Message])

    # --- runs -----------------------------------------------------------------------------------------------------

    async def agent_info(self, workspace_id: str) -> AgentInfo:
        """Which model answers, and is it at work."""
        return await self._get(_at(workspace_id, "agent"), AgentInfo)

    def new_run_id(self) -> str:
        """An id for a prompt; sending the prompt again with it starts nothing new."""
        return new_uuid(self._source)

    async def submit(
        self,
        workspace_id: str,
        session_id: str,
        prompt: str,
        *,
        run_id: str,
        permission_policy: PermissionPolicy = "",
    ) -> str:
        """Send a prompt; returns the run id once the prompt is stored.

        A lost answer is asked for again: the run id is the key, so nothing starts twice.
        """
        wish = Prompt(session_id=session_id, run_id=run_id, prompt=prompt, permission_policy=permission_policy)
        body = msgspec.json.encode(wish)
        for attempt in range(SUBMIT_ATTEMPTS):
            try:
                answer = await self._call("POST", _at(workspace_id, "agent"), body)
                return _decode(answer, Accepted).run_id
            except (ConnectionLost, Unavailable) as error:
                is_lost = isinstance(error, ConnectionLost) or error.code == "worker_lost"
                if attempt == SUBMIT_ATTEMPTS - 1 or not is_lost:
                    raise
        raise AssertionError("the loop returns or raises")

    async def permissions(self, workspace_id: str) -> list[PermissionRequest]:
        """The requests for permission that wait."""
        return await self._get(_at(workspace_id, "permissions"), list[PermissionRequest])

    async def grant(
        self, workspace_id: str, request: PermissionRequest, action: Literal["allow", "allow_session", "deny"]
    ) -> bool:
        """Answer a request for permission; False when somebody else was first. Raises Conflict `no_longer_asked`."""
        wish = Grant(permission=request, action=action)
        return (await self._send("POST", _at(workspace_id, "permissions", "grant"), wish, Resolved)).resolved

    async def runs(self, workspace_id: str, *, session_id: str = "", limit: int = 0) -> list[Run]:
        """The runs of a workspace or session, as the server orders them."""
        query = {"session_id": session_id} if session_id else {}
        return await self._get(_at(workspace_id, "runs"), list[Run], query | ({"limit": str(limit)} if limit else {}))

    async def run(self, workspace_id: str, run_id: str) -> Run:
        """One run. Raises NotFound."""
        return await self._get(_at(workspace_id, "runs", run_id), Run)

    async def cancel(self, workspace_id: str, session_id: str, *, run_id: str = "") -> None:
        """Cancel all that was accepted in a session before now, or one run only."""
        query = f"?{urlencode({'run_id': run_id})}" if run_id else ""
        await self._call("POST", _at(workspace_id, "agent", "sessions", session_id, "cancel") + query)

    # --- below ----------------------------------------------------------------------------------------------------

    async def _get(self, path: str, kind: type[T], query: Mapping[str, str] | None = None) -> T:
        return _decode(await self._call("GET", f"{path}?{urlencode(query)}" if query else path), kind)

    async def _send(self, method: str, path: str, body: msgspec.Struct, kind: type[T]) -> T:
        return _decode(await self._call(method, path, msgspec.json.encode(body)), kind)

    async def _call(self, method: str, target: str, body: bytes = b"", *, timeout_s: float = CALL_S) -> HttpResponse:
        try:
            answer = await self._transport.request(method, target, body, timeout_s=timeout_s)
        except TimeoutError:
            raise Unavailable(
                f"{self.address} did not answer {method} {target.partition('?')[0]} within {timeout_s:g} s",
                code="deadline",
            ) from None
        if answer.head.status >= 300:
            raise error_of(answer.head.status, answer.head.headers, answer.body)
        return answer


def _at(workspace_id: str, *words: str) -> str:
    """The path of something in a workspace; each word is escaped by itself."""
    return "/".join(["/v1/workspaces", *(quote(word, safe="$") for word in (workspace_id, *words))])


def _decode(answer: HttpResponse, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Internal(f"cannot read the server's answer: {error}; is it a Bulkhead of another version?") from None


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> BulkheadError:
    """The error that an answer tells of."""
    try:
        told = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        told = _ErrorBody()
    code = told.code if told.code in CODES else next((c for c, (_, s) in CODES.items() if s == status), "internal")
    retry_after = headers.get("retry-after", "")
    info = ErrorInfo(
        code=code,
        message=told.message or f"the server answered with status {status}",
        status=status,
        retryable=CODES[code][0].default_retryable,
        retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
    )
    return from_info(info)
