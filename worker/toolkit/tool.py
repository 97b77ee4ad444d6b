"""Define what a tool is: its specification, the context of one call, its result; and read its arguments.

What a tool needs of the rest of the worker is declared here as protocols: the permission gate, the file history, the
language servers, the hooks.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from protocol.base.clock import Clock
from protocol.errors import BadInput
from protocol.limits import Limits
from worker.config.schema import ToolSettings
from worker.processes.child import ChildProcesses

Effect = Literal["read", "write", "execute"]
AgentKind = Literal["main", "task", "web"]
"""The agents that call tools: that of a conversation; the sub-agent of `agent`; the sub-agent of `agentic_fetch`."""

Args = TypeVar("Args", bound=msgspec.Struct)


class ToolError(Exception):
    """A failure that the model can react to; its text becomes an error result."""


class ToolDenied(ToolError):
    """A refused permission. The error result ends the turn: the model must not look for a way around it."""


@dataclass(frozen=True)
class ToolResult:
    """The result of a call. `data` is Base64 of media of `mime_type`; `stop_turn` ends the turn after this step."""

    content: str
    is_error: bool = False
    metadata: Mapping[str, object] | None = None
    data: str = ""
    mime_type: str = ""
    stop_turn: bool = False


@dataclass(frozen=True)
class ToolSpec:
    """A tool as the model sees it, how it may run, and which agents have it.

    `schema` is the JSON schema of the arguments. `agents` may hold a sub-agent only if the tool changes nothing.
    """

    name: str
    description: str
    schema: dict[str, Any]
    parallel: bool
    effect: Effect
    agents: tuple[AgentKind, ...] = ("main",)


class FileLedger(Protocol):
    """Remembers which content of a file a session has last seen, as a SHA-256 in hexadecimal (W-65)."""

    async def last_read(self, session_id: str, path: str) -> str | None:
        """Return the hash of what the session last read or wrote at this resolved path; None when it never did."""
        ...

    async def record_read(self, session_id: str, path: str, sha256: str) -> None:
        """Record that the session has now seen this content."""
        ...


class FileHistory(Protocol):
    """Keeps the versions of the files that a session changed."""

    async def record(self, session_id: str, path: str, old: str | None, new: str) -> None:
        """Record that the session changed the file at this resolved path; `old` is None for a new file."""
        ...


class CodeServers(Protocol):
    """The language servers of the workspace, as the tools that read and change files see them."""

    async def seen(self, path: Path) -> str:
        """Report that the file was read; return its known diagnostics as text for the model, "" for none. Bounded."""
        ...

    async def changed(self, path: Path) -> str:
        """Report that the file was changed; return the diagnostics after that, as `seen`."""
        ...


@dataclass(frozen=True)
class AccessRequest:
    """What a call is about to do, for the gate. The fields are those of a permission request in the API."""

    session_id: str
    run_id: str
    tool_call_id: str
    tool: str
    action: str
    path: str
    description: str
    params: Mapping[str, object] | None
    approved: bool = False  # a hook said that no permission is needed


class Gate(Protocol):
    """Decides what a call may do. A request that waits delays no other (W-46)."""

    async def permit(self, request: AccessRequest, /) -> None:
        """Return when the call may go ahead. Raises ToolDenied. A cancel of the caller withdraws the request."""
        ...


@dataclass(frozen=True)
class CombinedHookDecision:
    """The combined decision of all hooks on a call. `args` go to the tool; `approved` skips the permission request."""

    args: dict[str, object]
    denied: str | None = None  # the reason; None when no hook objects
    halt: bool = False  # a denial that also ends the turn
    approved: bool = False
    note: str = ""  # goes below the tool's own text
    metadata: Mapping[str, object] | None = None


class Hooks(Protocol):
    """Runs the programs of the user that check a call before it runs."""

    async def before(self, tool: str, args: dict[str, object], context: "ToolContext") -> CombinedHookDecision:
        """Run all hooks that match. Bounded; a hook that fails counts as one without an opinion."""
        ...


class NoHistory:
    """A history that keeps nothing."""

    async def record(self, session_id: str, path: str, old: str | None, new: str) -> None:
        """Do nothing."""


class NoCodeServers:
    """No servers: there are never any diagnostics."""

    async def seen(self, path: Path) -> str:
        """Return no diagnostics."""
        return ""

    async def changed(self, path: Path) -> str:
        """Return no diagnostics."""
        return ""


class NoHooks:
    """No hooks: there is never an objection."""

    async def before(self, tool: str, args: dict[str, object], context: "ToolContext") -> CombinedHookDecision:
        """Let the call pass as it is."""
        return CombinedHookDecision(args)


@dataclass(frozen=True)
class ToolContext:
    """What one call may use. `workspace` is a resolved directory, `env` the environment for child processes."""

    workspace: Path
    session_id: str
    run_id: str
    message_id: str
    tool_call_id: str
    env: Mapping[str, str]
    limits: Limits
    clock: Clock
    children: ChildProcesses
    files: FileLedger
    gate: Gate
    tool: str = ""  # the name of the tool that is called
    agent: AgentKind = "main"  # the agent that calls
    readable: tuple[Path, ...] = ()  # resolved directories outside the workspace that need no permission to be read
    approved: bool = False  # a hook approved this call
    takes_images: bool = False  # the model of this turn accepts images
    history: FileHistory = field(default_factory=NoHistory)
    code: CodeServers = field(default_factory=NoCodeServers)
    hooks: Hooks = field(default_factory=NoHooks)
    bounds: ToolSettings = field(default_factory=ToolSettings)  # the configured settings of single tools
    without_deadline: Callable[[], AbstractContextManager[object]] = nullcontext
    """`with context.without_deadline():` suspends the tool's deadline while it waits for a person or another agent."""

    async def permit(
        self, *, action: str, path: str, description: str, params: Mapping[str, object] | None = None
    ) -> None:
        """Ask for permission for what the call is about to do, and wait for the decision. Raises ToolDenied."""
        request = AccessRequest(
            self.session_id,
            self.run_id,
            self.tool_call_id,
            self.tool,
            action,
            path,
            description,
            params,
            self.approved,
        )
        with self.without_deadline():
            await self.gate.permit(request)


class Tool(Protocol):
    """One tool."""

    spec: ToolSpec

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """Run one call; raise ToolError or BadInput for an error result.

        On a cancel everything that the call began has ended before CancelledError leaves.
        """
        ...


def read_args(kind: type[Args], args: dict[str, object]) -> Args:
    """Convert the arguments to `kind`. Raises BadInput naming the missing or ill-typed parameter.

    Numbers and booleans that a model wrote as strings are accepted, unknown parameters are ignored, and null counts as
    left out.
    """
    try:
        return msgspec.convert(_without_nulls(args), kind, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        required = ", ".join(required_parameters(kind))
        raise BadInput(f"cannot read the arguments: {text}; required parameters are: {required or 'none'}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return [_without_nulls(child) for child in value] if isinstance(value, list) else value


def required_parameters(kind: type[msgspec.Struct]) -> list[str]:
    """Return the names of the parameters without a default, in order."""
    return [field.encode_name for field in msgspec.structs.fields(kind) if field.required]


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON schema of an argument struct as one plain object, as model providers require."""
    _, components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    schema = dict(components.pop(kind.__name__))
    schema.pop("title", None)
    schema.pop("description", None)
    if components:
        schema["$defs"] = components
    return schema


def description_of(module_file: str, name: str) -> str:
    """Read the description of a tool for the model: `NAME.md` beside the module that defines the tool.

    `module_file` is that module's `__file__`. Called at import, so that forked workers share the text.
    """
    return Path(module_file).with_name(f"{name}.md").read_text(encoding="utf-8").strip()
