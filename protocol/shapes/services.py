"""Language servers, skills, MCP servers and the direct shell command (http-api 3.9, 3.11, 3.12)."""

from typing import Annotated

import msgspec

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class PathWish(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/lsps/start`: the file for which language servers are wanted."""

    path: str


class SkillWish(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/skills/read`."""

    skill_id: Name


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

    command: str
    session_id: str = ""
    term_width: int = 0


class ShellResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a direct shell command printed (its errors below), and how it ended."""

    output: str
    exit_code: int
