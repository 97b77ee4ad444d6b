"""Who decides what a tool call may do: the standing rules, the run's policy, hooks, earlier grants, then the user."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from protocol.api.permission import PermissionPolicy, PermissionRequest
from protocol.base.text import replace_surrogates, replace_surrogates_in
from worker.permissions.broker import PermissionBroker
from worker.permissions.rules import Rules
from worker.store.rows import StoredRequest
from worker.toolkit.tool import AccessRequest, ToolDenied

ONE_SHOT = "the only client of this workspace said that it cannot answer requests for permission"


class InThread(Protocol):
    """Looks at the disk without holding up the loop."""

    def __call__(self, job: Callable[[], str], /) -> Awaitable[str]: ...


@dataclass(frozen=True)
class RunPolicy:
    """What a run's prompt said of its requests. `wait_s` is the deadline of `wait`, in seconds."""

    kind: PermissionPolicy
    wait_s: float

    @property
    def timeout_s(self) -> float | None:
        """The deadline that every request of the run has."""
        return self.wait_s if self.kind == "wait" else None


class PermissionGate:
    """The gate of one run. `rules` and `may_allow` are asked each time: they change while runs go on."""

    def __init__(
        self,
        desk: PermissionBroker,
        *,
        rules: Callable[[], Rules],
        policy: RunPolicy,
        may_allow: Callable[[], bool],
        workspace: Path,
        in_thread: InThread,
    ) -> None:
        """`may_allow`: does this server let a prompt say that its run needs no permission?"""
        self._desk = desk
        self._rules = rules
        self._policy = policy
        self._may_allow = may_allow
        self._workspace = workspace
        self._in_thread = in_thread

    async def permit(self, wish: AccessRequest) -> None:
        """Return when it may. Raises Denied with who or what denied it, and what would allow it."""
        decision = self._rules().decide(wish.tool, wish.action)
        if decision.allowed or (self._policy.kind == "allow" and self._may_allow()):
            return
        if wish.approved:
            await self._desk.approve(wish.session_id, wish.run_id, wish.tool_call_id)
            return
        path = await self._in_thread(lambda: asked_path(wish.path, self._workspace))
        ask_id = self._desk.new_id()
        request = PermissionRequest(
            id=ask_id,
            session_id=wish.session_id,
            tool_call_id=wish.tool_call_id,
            tool_name=wish.tool,
            description=replace_surrogates(wish.description),
            action=wish.action,
            params=replace_surrogates_in(dict(wish.params)) if wish.params is not None else None,
            path=replace_surrogates(path),
        )
        asked = StoredRequest(
            ask_id,
            "permission",
            wish.session_id,
            wish.run_id,
            wish.tool_call_id,
            tool=wish.tool,
            action=wish.action,
            path=request.path,
        )
        reply = await self._desk.ask(asked, request, timeout_s=self._policy.timeout_s, refusal=self._refusal())
        if reply.granted:
            return
        if reply.why:
            raise ToolDenied(f"{decision.reason} Nobody was asked or answered: {reply.why}.")
        raise ToolDenied(
            f"cannot run {wish.tool}: the user denied permission to {wish.action}. Do not look for a way around it; "
            "say what you wanted to do and wait for what the user says."
        )

    def _refusal(self) -> str:
        """Why nobody is asked at all; "" when somebody is."""
        if self._policy.kind == "deny":
            return "the prompt of this run said that requests for permission are to be denied"
        if self._policy.kind == "" and self._desk.cannot_answer:
            return ONE_SHOT
        return ""


def asked_path(path: str, workspace: Path) -> str:
    """The directory that a request is about: that of an existing file, the workspace for "."; else as it is. Blocks."""
    if path in ("", "."):
        return str(workspace)
    return str(Path(path).parent) if Path(path).is_file() else path
