"""Every key of the configuration files with its type and default (agent-behaviour 8.2). docs/configuration.md explains
them; a test of the house compares the two.

What the worker does not obey itself is here as well: clients read it, and a wrong type must be told to who wrote it.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from protocol.api.provider import ProviderConfig, SelectedModel
from worker.config.sections import HookSettings, LspSettings, McpSettings

Count = Annotated[int, Meta(ge=0)]
Nanoseconds = Annotated[int, Meta(ge=0)]


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """How commits say who helped. `co_authored_by` is an older way to choose the style."""

    trailer_style: Literal["assisted-by", "co-authored-by", "none"] = "assisted-by"
    co_authored_by: bool | None = None
    generated_with: bool = True


class Completions(msgspec.Struct, frozen=True, kw_only=True):
    """How far a terminal looks for files to complete; 0 is its own choice."""

    max_depth: Count = 0
    max_items: Count = 0


class Tui(msgspec.Struct, frozen=True, kw_only=True):
    """How a terminal looks. Only clients read it."""

    compact_mode: bool = False
    diff_mode: Literal["", "unified", "split"] = ""
    transparent: bool | None = None
    scrollbar: Literal["default", "always", "never"] = "default"
    completions: Completions = field(default_factory=Completions)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`options`. The worker obeys some of them, the others only pass through to clients."""

    context_paths: list[str] = []
    global_context_paths: list[str] = []
    skills_paths: list[str] = []
    disabled_skills: list[str] = []
    disabled_tools: list[str] = []
    data_directory: str = ""
    disable_auto_summarize: bool = False
    disable_default_providers: bool = False
    disable_provider_auto_update: bool = False
    disable_metrics: bool = False
    debug: bool = False
    debug_lsp: bool = False
    auto_lsp: bool | None = None
    progress: bool | None = None
    initialize_as: str = "AGENTS.md"
    notifications: Literal["auto", "native", "osc", "bell", "disabled"] = "auto"
    attribution: Attribution = field(default_factory=Attribution)
    tui: Tui = field(default_factory=Tui)


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """`permissions.allowed_tools`: entries `tool` or `tool:action` that never ask. `allow_run_policy`: may a prompt say
    that its run needs no permission?"""

    allowed_tools: list[str] = []
    allow_run_policy: bool = True


class LsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the tool `ls`: levels (0: all of them) and entries (0: the server's limit)."""

    max_depth: Count = 0
    max_items: Count = 0


class SearchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of `grep` or `glob`. `timeout` is in nanoseconds, as in the files of Crush; 0 is the server's limit."""

    timeout: Nanoseconds = 0

    def timeout_s(self, otherwise: float) -> float:
        """The timeout in seconds, or `otherwise` when none is set."""
        return self.timeout / 1e9 if self.timeout else otherwise


class ToolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`tools`: bounds of single tools; `confine`: does the kernel hold commands in the workspace; `writable`: where
    else they may write then."""

    confine: Literal["off", "auto", "required"] = "off"
    writable: list[str] = []

    ls: LsSettings = field(default_factory=LsSettings)
    grep: SearchSettings = field(default_factory=SearchSettings)
    glob: SearchSettings = field(default_factory=SearchSettings)


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of the merged files. Keys that are not here pass with a warning."""

    models: dict[str, SelectedModel] = {}
    recent_models: dict[str, list[SelectedModel]] = {}
    providers: dict[str, ProviderConfig] = {}
    mcp: dict[str, McpSettings] = {}
    lsp: dict[str, LspSettings] = {}
    hooks: dict[str, list[HookSettings]] = {}
    options: Options = field(default_factory=Options)
    permissions: Permissions = field(default_factory=Permissions)
    tools: ToolSettings = field(default_factory=ToolSettings)
    env: dict[str, str] = {}
    server: dict[str, Any] = {}  # the supervisor's own section of the user's file; it checks it itself
    editor_schema: str = field(name="$schema", default="")
