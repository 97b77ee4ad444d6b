"""Decide whether a tool call may do what it asks for.

In this order: the rules of the workspace, the run's policy, hooks, earlier grants, then the user.
"""

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


class ResolveOnThread(Protocol):
    """Runs a job that blocks on the disk, outside the event loop."""

    def __call__(self, job: Callable[[], str], /) -> Awaitable[str]: ...


@dataclass(frozen=True)
class RunPolicy:
    """The policy that a run's prompt set for its requests. `wait_s` is the deadline of `wait`, in seconds."""

    kind: PermissionPolicy
    wait_s: float

    @property
    def timeout_s(self) -> float | None:
        """The deadline of every request of the run; None for none."""
        return self.wait_s if self.kind == "wait" else None


class PermissionGate:
    """Permit or deny the calls of one run. `rules` and `may_allow` are called each time: they change during runs."""

    def __init__(
        self,
        broker: PermissionBroker,
        *,
        rules: Callable[[], Rules],
        policy: RunPolicy,
        may_allow: Callable[[], bool],
        workspace: Path,
        in_thread: ResolveOnThread,
    ) -> None:
        """`may_allow` returns whether this server lets a prompt say that its run needs no permission."""
        self._broker = broker
        self._rules = rules
        self._policy = policy
        self._may_allow = may_allow
        self._workspace = workspace
        self._in_thread = in_thread

    async def permit(self, access: AccessRequest) -> None:
        """Return when the call is permitted. Raises ToolDenied with the reason, and with what would allow it."""
        decision = self._rules().decide(access.tool, access.action)
        if decision.allowed or (self._policy.kind == "allow" and self._may_allow()):
            return
        if access.approved:
            await self._broker.approve(access.session_id, access.run_id, access.tool_call_id)
            return
        path = await self._in_thread(lambda: request_path(access.path, self._workspace))
        request_id = self._broker.new_id()
        shape = PermissionRequest(
            id=request_id,
            session_id=access.session_id,
            tool_call_id=access.tool_call_id,
            tool_name=access.tool,
            description=replace_surrogates(access.description),
            action=access.action,
            params=replace_surrogates_in(dict(access.params)) if access.params is not None else None,
            path=replace_surrogates(path),
        )
        request = StoredRequest(
            request_id,
            "permission",
            access.session_id,
            access.run_id,
            access.tool_call_id,
            tool=access.tool,
            action=access.action,
            path=shape.path,
        )
        reply = await self._broker.ask(request, shape, timeout_s=self._policy.timeout_s, refusal=self._refusal())
        if reply.granted:
            return
        if reply.why:
            raise ToolDenied(f"{decision.reason} No client decided: {reply.why}.")
        raise ToolDenied(
            f"cannot run {access.tool}: the user denied permission to {access.action}. Do not look for a way around "
            "it; say what you wanted to do and wait for what the user says."
        )

    def _refusal(self) -> str:
        """Return why no client is asked; "" when one is."""
        if self._policy.kind == "deny":
            return "the prompt of this run said that requests for permission are to be denied"
        if self._policy.kind == "" and self._broker.cannot_answer:
            return ONE_SHOT
        return ""


def request_path(path: str, workspace: Path) -> str:
    """Return the directory that a request is about. Blocks.

    That is the directory of an existing file, the workspace for ".", and otherwise the path as it is.
    """
    if path in ("", "."):
        return str(workspace)
    return str(Path(path).parent) if Path(path).is_file() else path
