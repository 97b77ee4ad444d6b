"""Sections of the configuration that belong to one part of the worker each, as they stand in the files."""

import re
from typing import Annotated, Any

import msgspec


class LspSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`lsp.<name>`: one language server. What is left out comes from the catalogue, by its name or command.

    `command`, `args` and the values of `env` are templates, expanded when the server is started. `options` are the
    settings that the server asks for; `timeout` bounds its start, in seconds.
    """

    disabled: bool = False
    command: str = ""
    args: list[str] | None = None
    env: dict[str, str] | None = None
    filetypes: list[str] | None = None
    root_markers: list[str] | None = None
    init_options: dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    timeout: int = 0


class HookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `hooks.<event>`: a command that looks at tool calls. `matcher` is a regular expression searched in
    the tool's name; `timeout` bounds one run, in seconds."""

    command: Annotated[str, msgspec.Meta(min_length=1)]
    name: str = ""
    matcher: str = ""
    timeout: int = 0

    def __post_init__(self) -> None:
        try:
            re.compile(self.matcher)
        except re.error as error:
            raise ValueError(f"the matcher {self.matcher!r} is no regular expression: {error}") from None
