"""What a tool is: its specification, the context of one call, its result; and reading its arguments.

What a tool needs of the rest of the worker stands here as protocols: who permits, who remembers, who is asked first.
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
Args = TypeVar("Args", bound=msgspec.Struct)


class ToolError(Exception):
    """A failure that the model can react to; its text becomes an error result."""


class ToolDenied(ToolError):
    """A permission was refused. The error result ends the turn: the model must not look for a way around it."""


@dataclass(frozen=True)
class ToolResult:
    """What a call gave. `data` is Base64 of media of `mime_type`; `stop_turn` ends the turn after this step."""

    content: str
    is_error: bool = False
    metadata: Mapping[str, object] | None = None
    data: str = ""
    mime_type: str = ""
    stop_turn: bool = False


@dataclass(frozen=True)
class ToolSpec:
    """What the model is told of a tool, and how it may run. `schema` is the JSON schema of its arguments."""

    name: str
    description: str
    schema: dict[str, Any]
    parallel: bool
    effect: Effect


class FileLedger(Protocol):
    """Which content of a file a session has last seen, as a SHA-256 in hexadecimal (W-65)."""

    async def last_read(self, session_id: str, path: str) -> str | None:
        """The hash of what the session last read or wrote at this resolved path; None when it never did."""
        ...

    async def record_read(self, session_id: str, path: str, sha256: str) -> None:
        """The session has now seen this content."""
        ...


class FileHistory(Protocol):
    """The versions of the files that a session changed."""

    async def record(self, session_id: str, path: str, old: str | None, new: str) -> None:
        """The session changed the file at this resolved path; `old` is None for one that was not there."""
        ...


class CodeServers(Protocol):
    """The language servers of the workspace, as the tools that read and change files see them."""

    async def seen(self, path: Path) -> str:
        """The file was read. What is known to be wrong in it, as text for the model; "" for nothing. Bounded."""
        ...

    async def changed(self, path: Path) -> str:
        """The file was changed. What is wrong after that, as `seen`."""
        ...


@dataclass(frozen=True)
class AccessRequest:
    """What a call is about to do, for whoever decides. The fields are those of the API (http-api 3.10)."""

    session_id: str
    run_id: str
    tool_call_id: str
    tool: str
    action: str
    path: str
    description: str
    params: Mapping[str, object] | None
    approved: bool = False  # a hook said that nobody needs to be asked


class Gate(Protocol):
    """Who decides what a call may do. One wish that waits holds up nobody else (W-46)."""

    async def permit(self, wish: AccessRequest) -> None:
        """Return when it may. Raises Denied. A caller that is cancelled takes its wish back."""
        ...


@dataclass(frozen=True)
class HookVerdict:
    """What the hooks say before a call. `args` are what the tool gets; `approved` spares the permission request."""

    args: dict[str, object]
    denied: str | None = None  # why not; None when nobody objects
    halt: bool = False  # a denial that also ends the turn
    approved: bool = False
    note: str = ""  # goes below the tool's own text
    metadata: Mapping[str, object] | None = None


class Hooks(Protocol):
    """Programs of the user that look at a call before it runs (10.4)."""

    async def before(self, tool: str, args: dict[str, object], context: "ToolContext") -> HookVerdict:
        """Ask all that match. Bounded; a hook that fails has no opinion."""
        ...


class NoHistory:
    """Remembers nothing."""

    async def record(self, session_id: str, path: str, old: str | None, new: str) -> None:
        """Nothing is kept."""


class NoCodeServers:
    """Knows nothing of any file."""

    async def seen(self, path: Path) -> str:
        """Nothing."""
        return ""

    async def changed(self, path: Path) -> str:
        """Nothing."""
        return ""


class NoHooks:
    """No objection, ever."""

    async def before(self, tool: str, args: dict[str, object], context: "ToolContext") -> HookVerdict:
        """The call as it is."""
        return HookVerdict(args)


@dataclass(frozen=True)
class ToolContext:
    """What one call may use. `workspace` is a resolved directory; `env` the environment meant for children."""

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
    readable: tuple[Path, ...] = ()  # resolved directories outside the workspace that need no permission to be read
    approved: bool = False  # a hook approved this call
    takes_images: bool = False  # can the model of this turn see what a tool shows it?
    history: FileHistory = field(default_factory=NoHistory)
    code: CodeServers = field(default_factory=NoCodeServers)
    hooks: Hooks = field(default_factory=NoHooks)
    bounds: ToolSettings = field(default_factory=ToolSettings)  # what the configuration says of single tools
    without_deadline: Callable[[], AbstractContextManager[object]] = nullcontext
    """`with context.without_deadline():` the tool's own deadline stands still: people, or another agent, take time."""

    async def permit(
        self, *, action: str, path: str, description: str, params: Mapping[str, object] | None = None
    ) -> None:
        """Ask for what the call is about to do, and wait for the answer. Raises Denied."""
        wish = AccessRequest(
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
            await self.gate.permit(wish)


class Tool(Protocol):
    """One tool. `run` returns a result, or raises ToolError or BadInput for an error result."""

    spec: ToolSpec

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """Do it. On a cancel everything that the call began has ended before CancelledError leaves."""
        ...


def read_args(kind: type[Args], args: dict[str, object]) -> Args:
    """The arguments as `kind`. Raises BadInput naming the missing or ill-typed parameter.

    Numbers and booleans that a model wrote as strings are taken; parameters that the tool does not know are ignored,
    and null is as good as left out.
    """
    try:
        return msgspec.convert(_without_nulls(args), kind, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        wanted = ", ".join(required_parameters(kind))
        raise BadInput(f"cannot read the arguments: {text}; required parameters are: {wanted or 'none'}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(below) for key, below in value.items() if below is not None}
    return [_without_nulls(below) for below in value] if isinstance(value, list) else value


def required_parameters(kind: type[msgspec.Struct]) -> list[str]:
    """The names of the parameters without a default, in order."""
    return [field.encode_name for field in msgspec.structs.fields(kind) if field.required]


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of an argument struct as one plain object, the way model providers want it."""
    _, components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    schema = dict(components.pop(kind.__name__))
    schema.pop("title", None)
    schema.pop("description", None)
    if components:
        schema["$defs"] = components
    return schema


def description_of(module_file: str, name: str) -> str:
    """Read the description that the model gets of a tool: `NAME.md` beside the module that defines the tool.

    `module_file` is that module's `__file__`. Called at import, so that forked workers share the text.
    """
    return Path(module_file).with_name(f"{name}.md").read_text(encoding="utf-8").strip()
