"""Sections of the configuration that belong to one part of the worker each, as they stand in the files."""

from typing import Any

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
