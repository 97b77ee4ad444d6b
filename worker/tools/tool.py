"""What a tool is: its specification, the context of one call, its result; and reading its arguments."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec

from protocol.base.clock import Clock
from protocol.errors import BadInput
from protocol.limits import Limits
from worker.permissions.rules import Rules

if TYPE_CHECKING:  # the keeper of children does I/O; here it is only a type
    from worker.tools.child import Children

Effect = Literal["read", "write", "execute"]
Args = TypeVar("Args", bound=msgspec.Struct)


class ToolError(Exception):
    """A failure that the model can react to; its text becomes an error result."""


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
    children: "Children"
    files: FileLedger
    rules: Rules


class Tool(Protocol):
    """One tool. `run` returns a result, or raises ToolError or BadInput for an error result."""

    spec: ToolSpec

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """Do it. On a cancel everything that the call began has ended before CancelledError leaves."""
        ...


def read_args(kind: type[Args], args: dict[str, object]) -> Args:
    """The arguments as `kind`. Raises BadInput naming the missing or ill-typed parameter.

    Numbers and booleans that a model wrote as strings are taken; parameters that the tool does not know are ignored.
    """
    try:
        return msgspec.convert(args, kind, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        wanted = ", ".join(required_parameters(kind))
        raise BadInput(f"cannot read the arguments: {text}; required parameters are: {wanted or 'none'}") from error


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


def description_of(name: str) -> str:
    """The text beside the code that tells the model what a tool is for. Read at import, before the fork."""
    return (Path(__file__).parent / f"{name}.md").read_text(encoding="utf-8").strip()
