"""API types for requests to language servers, skills, MCP servers and the shell."""

from typing import Annotated, Literal

import msgspec

from protocol.api.agent import NOT_BLANK_PATTERN

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class StartLanguageServers(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/lsps/start`: the file whose language servers are started."""

    path: str


class ReadSkill(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/skills/read`."""

    skill_id: Name


class SkillState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a skill file: `state` is 0 if it is usable, and 1 if not; then `error` says why."""

    name: str
    path: str
    state: int
    error: str = ""


class SkillsChanged(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the event `skills_event`: the skills have changed."""

    states: list[SkillState]


class SkillInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A usable skill. `id` is the path of its file."""

    id: str
    name: str
    description: str
    label: str
    source: Literal["system", "user", "project"]
    user_invocable: bool


class SkillTextResult(msgspec.Struct, frozen=True, kw_only=True):
    """Describes the skill of a `SkillText`."""

    name: str
    description: str
    source: str
    builtin: bool


class SkillText(msgspec.Struct, frozen=True, kw_only=True):
    """The response to `POST …/skills/read`. `content` is the text of the skill, as padded Base64."""

    content: bytes
    result: SkillTextResult


class ServerName(msgspec.Struct, frozen=True, kw_only=True):
    """Names an MCP server, as in the configuration."""

    name: Name


class GetMcpPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/mcp/get-prompt`. `client_id` is the name of the MCP server."""

    client_id: Name
    prompt_id: Name
    args: dict[str, str] | None = None


class ReadMcpResource(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/mcp/read-resource`. `name` is the name of the MCP server."""

    name: Name
    uri: Name


class RunShellCommand(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/shell`. `session_id` is ignored; the session in the path is used."""

    command: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": NOT_BLANK_PATTERN})]
    session_id: str = ""
    term_width: int = 0


class ShellResult(msgspec.Struct, frozen=True, kw_only=True):
    """The output of a shell command, standard error after standard output, and its exit code."""

    output: str
    exit_code: int
