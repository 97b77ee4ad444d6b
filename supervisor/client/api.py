"""Call API v1 with typed methods: responses are decoded into the types of protocol, errors into protocol's errors."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from protocol.address import Address
from protocol.api.agent import Accepted, AgentInfo, Prompt, Run
from protocol.api.message import Attachment, Message
from protocol.api.permission import Grant, PermissionPolicy, PermissionRequest, Resolved
from protocol.api.session import Session, WriteSession
from protocol.api.workspace import AdoptDirectory, CreateWorkspace, WorkerStatus, Workspace
from protocol.errors import CODES, BulkheadError, ErrorInfo, Internal, Unavailable, from_info
from protocol.ids import new_uuid
from protocol.version import BULKHEAD_VERSION
from supervisor.client.events import EventStream
from supervisor.client.transport import ConnectionLost, HttpResponse, Transport

T = TypeVar("T")

CALL_S = 60.0
"""Longer than the server's own deadlines, so that the server's error, not this timeout, says what went wrong."""

HEALTH_S = 1.0
CREATE_S = 60.0
SUBMIT_ATTEMPTS = 3


class ServerVersion(msgspec.Struct, frozen=True):
    """The response of `GET /v1/version`."""

    version: str = ""
    platform: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    message: str = ""
    code: str = ""


class _Skip(msgspec.Struct, frozen=True):
    skip: bool = False


class Api:
    """Client of one server. Every method raises the server's error, Unreachable or ConnectionLost."""

    def __init__(self, address: Address, *, token: str = "", source: random.Random | None = None) -> None:
        self._source = source or random.SystemRandom()
        self._transport = Transport(address, token=token)
        self.address = address
        self.client_id = new_uuid(self._source)

    # --- the server -----------------------------------------------------------------------------------------------

    async def is_healthy(self) -> bool:
        """Return whether the server answers within a second."""
        try:
            answer = await self._transport.request("GET", "/v1/health", timeout_s=HEALTH_S)
        except (BulkheadError, TimeoutError):
            return False
        return 200 <= answer.head.status < 300

    async def version(self) -> ServerVersion:
        """Return the version and platform of the server."""
        return await self._get("/v1/version", ServerVersion)

    async def workers(self, *, with_memory: bool = False) -> list[WorkerStatus]:
        """Return every workspace with the state of its worker; `with_memory` also measures private memory."""
        return await self._get("/v1/workers", list[WorkerStatus], {"memory": "full"} if with_memory else {})

    async def retire(self) -> None:
        """Release every lease of this client, permanently."""
        await self._call("DELETE", f"/v1/clients/{self.client_id}", timeout_s=HEALTH_S * 2)

    # --- workspaces -----------------------------------------------------------------------------------------------

    async def create_workspace(self, path: Path) -> Workspace:
        """Register the directory unless it is registered, wait until its worker is ready, and return the workspace.

        Retries while the server reports that the worker is still starting, which takes long on a cold disk.
        """
        body = CreateWorkspace(path=str(path), client_id=self.client_id, version=BULKHEAD_VERSION)
        deadline = asyncio.get_running_loop().time() + CREATE_S
        while True:
            try:
                return await self._send("POST", "/v1/workspaces", body, Workspace)
            except Unavailable as error:
                if error.code != "worker_starting" or asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(error.retry_after_s or 0.5)

    async def restart(self, workspace_id: str) -> None:
        """Replace the worker; also restarts a workspace in state `failed`."""
        await self._call("POST", _at(workspace_id, "restart"))

    async def adopt(self, workspace_id: str, path: Path) -> None:
        """Make the directory at `path` the folder of a workspace."""
        await self._call("POST", _at(workspace_id, "directory"), msgspec.json.encode(AdoptDirectory(str(path))))

    async def forget(self, workspace_id: str) -> None:
        """Remove the registration of a workspace; its files stay."""
        await self._call("DELETE", _at(workspace_id, "registration"))

    async def skips_permissions(self, workspace_id: str) -> bool:
        """Return whether tools run without asking."""
        return (await self._get(_at(workspace_id, "permissions", "skip"), _Skip)).skip

    async def skip_permissions(self, workspace_id: str, skip: bool) -> None:
        """Set whether tools run without asking."""
        await self._call("POST", _at(workspace_id, "permissions", "skip"), msgspec.json.encode(_Skip(skip)))

    def events(self, workspace_id: str, *, cursor: str = "", patience_s: float = 30.0) -> EventStream:
        """Return the events of a workspace, after `cursor` or from now on. See EventStream."""
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
        """Return the sessions of a workspace, newest first."""
        return await self._get(_at(workspace_id, "sessions"), list[Session])

    async def session(self, workspace_id: str, session_id: str) -> Session:
        """Return one session. Raises NotFound."""
        return await self._get(_at(workspace_id, "sessions", session_id), Session)

    async def create_session(self, workspace_id: str, title: str) -> Session:
        """Create a session."""
        return await self._send("POST", _at(workspace_id, "sessions"), WriteSession(title=title), Session)

    async def messages(self, workspace_id: str, session_id: str) -> list[Message]:
        """Return the messages of a session, oldest first."""
        return await self._get(_at(workspace_id, "sessions", session_id, "messages"), list[Message])

    # --- runs -----------------------------------------------------------------------------------------------------

    async def agent_info(self, workspace_id: str) -> AgentInfo:
        """Return which model answers, and whether a run is active."""
        return await self._get(_at(workspace_id, "agent"), AgentInfo)

    def new_run_id(self) -> str:
        """Return an id for a prompt; submitting the prompt again with the same id does not start a second run."""
        return new_uuid(self._source)

    async def submit(
        self,
        workspace_id: str,
        session_id: str,
        prompt: str,
        *,
        attachments: Sequence[Attachment] = (),
        run_id: str,
        permission_policy: PermissionPolicy = "",
    ) -> str:
        """Submit a prompt; returns the run id once the prompt is stored.

        Retries when the response was lost: the run id makes the request idempotent.
        """
        body = msgspec.json.encode(
            Prompt(
                session_id=session_id,
                run_id=run_id,
                prompt=prompt,
                attachments=list(attachments),
                permission_policy=permission_policy,
            )
        )
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
        """Return the open permission requests."""
        return await self._get(_at(workspace_id, "permissions"), list[PermissionRequest])

    async def grant(
        self, workspace_id: str, request: PermissionRequest, action: Literal["allow", "allow_session", "deny"]
    ) -> bool:
        """Answer a permission request; False when another client was first. Raises Conflict `no_longer_asked`."""
        body = Grant(permission=request, action=action)
        return (await self._send("POST", _at(workspace_id, "permissions", "grant"), body, Resolved)).resolved

    async def runs(self, workspace_id: str, *, session_id: str = "", limit: int = 0) -> list[Run]:
        """Return the runs of a workspace or session, newest first; `limit` 0 is the server's default."""
        query = {"session_id": session_id} if session_id else {}
        return await self._get(_at(workspace_id, "runs"), list[Run], query | ({"limit": str(limit)} if limit else {}))

    async def run(self, workspace_id: str, run_id: str) -> Run:
        """Return one run. Raises NotFound."""
        return await self._get(_at(workspace_id, "runs", run_id), Run)

    async def cancel(self, workspace_id: str, session_id: str, *, run_id: str = "") -> None:
        """Cancel all runs accepted so far in a session, or one run only."""
        query = f"?{urlencode({'run_id': run_id})}" if run_id else ""
        await self._call("POST", _at(workspace_id, "agent", "sessions", session_id, "cancel") + query)

    # --- requests -------------------------------------------------------------------------------------------------

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
    """Return the path of something in a workspace; each segment is escaped separately."""
    return "/".join(["/v1/workspaces", *(quote(word, safe="$") for word in (workspace_id, *words))])


def _decode(answer: HttpResponse, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Internal(f"cannot read the server's response: {error}; is it another version of Bulkhead?") from None


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> BulkheadError:
    """Return the error that a response describes; an unknown code becomes one with the same status."""
    try:
        content = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        content = _ErrorBody()
    code = content.code
    if code not in CODES:
        code = next((known for known, (_, known_status) in CODES.items() if known_status == status), "internal")
    retry_after = headers.get("retry-after", "")
    info = ErrorInfo(
        code=code,
        message=content.message or f"the server answered with status {status}",
        status=status,
        retryable=CODES[code][0].default_retryable,
        retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
    )
    return from_info(info)
