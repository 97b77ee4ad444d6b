"""Language servers, skills, MCP servers and the direct shell command (http-api 3.9, 3.11, 3.12)."""

from typing import Annotated, Literal

import msgspec

from protocol.api.agent import SAYS_SOMETHING

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class PathWish(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/lsps/start`: the file for which language servers are wanted."""

    path: str


class SkillWish(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/skills/read`."""

    skill_id: Name


class SkillState(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one skill file: `state` 0 is usable, 1 is not, and `error` says why."""

    name: str
    path: str
    state: int
    error: str = ""


class SkillsChanged(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the event `skills_event`."""

    states: list[SkillState]


class SkillInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One usable skill. The id is the path of its file."""

    id: str
    name: str
    description: str
    label: str
    source: Literal["system", "user", "project"]
    user_invocable: bool


class SkillTextResult(msgspec.Struct, frozen=True, kw_only=True):
    """Of which skill a text is."""

    name: str
    description: str
    source: str
    builtin: bool


class SkillText(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST …/skills/read`."""

    content: bytes
    result: SkillTextResult


class ServerName(msgspec.Struct, frozen=True, kw_only=True):
    """An MCP server by the name that the configuration gives it."""

    name: Name


class PromptWish(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/mcp/get-prompt`. `client_id` is the MCP server's name here."""

    client_id: Name
    prompt_id: Name
    args: dict[str, str] | None = None


class ResourceWish(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/mcp/read-resource`."""

    name: Name
    uri: Name


class ShellWish(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/shell`. The session of the path counts, not the one of the body."""

    command: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": SAYS_SOMETHING})]
    session_id: str = ""
    term_width: int = 0


class ShellResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a direct shell command printed (its errors below), and how it ended."""

    output: str
    exit_code: int
