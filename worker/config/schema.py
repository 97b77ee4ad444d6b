"""Define every key of the configuration files with its type and default.

docs/configuration.md explains the keys; a test compares the two. Keys that only clients use are defined as well, so
that a wrong type is reported.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from protocol.api.provider import ProviderConfig, SelectedModel
from worker.config.sections import HookSettings, LspSettings, McpSettings

Count = Annotated[int, Meta(ge=0)]
Nanoseconds = Annotated[int, Meta(ge=0)]


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """How commits name the assistant. `co_authored_by` is an older key for the style."""

    trailer_style: Literal["assisted-by", "co-authored-by", "none"] = "assisted-by"
    co_authored_by: bool | None = None
    generated_with: bool = True


class Completions(msgspec.Struct, frozen=True, kw_only=True):
    """How far a terminal client searches for file names to complete; 0 is the client's default."""

    max_depth: Count = 0
    max_items: Count = 0


class Tui(msgspec.Struct, frozen=True, kw_only=True):
    """The appearance of terminal clients; only clients use it."""

    compact_mode: bool = False
    diff_mode: Literal["", "unified", "split"] = ""
    transparent: bool | None = None
    scrollbar: Literal["default", "always", "never"] = "default"
    completions: Completions = field(default_factory=Completions)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The section `options`. Some options affect the worker, the others are only passed to clients."""

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
    """The section `permissions`.

    `allowed_tools`: entries `tool` or `tool:action` that need no permission. `allow_run_policy`: whether a prompt may
    state that its run needs no permission.
    """

    allowed_tools: list[str] = []
    allow_run_policy: bool = True


class LsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the tool `ls`: directory levels (0 is all) and entries (0 is the server's limit)."""

    max_depth: Count = 0
    max_items: Count = 0


class SearchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of `grep` or `glob`. `timeout` is in nanoseconds, as in Crush's files; 0 is the server's limit."""

    timeout: Nanoseconds = 0

    def timeout_s(self, otherwise: float) -> float:
        """Return the timeout in seconds, or `otherwise` if none is set."""
        return self.timeout / 1e9 if self.timeout else otherwise


class ToolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section `tools`: limits of single tools, and the sandbox of commands.

    `confine`: whether the kernel restricts commands to the workspace. `writable`: other paths they may write to then.
    """

    confine: Literal["off", "auto", "required"] = "off"
    writable: list[str] = []

    ls: LsSettings = field(default_factory=LsSettings)
    grep: SearchSettings = field(default_factory=SearchSettings)
    glob: SearchSettings = field(default_factory=SearchSettings)


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """The merged configuration files. Other keys are kept and cause a warning."""

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
    server: dict[str, Any] = {}  # settings of the supervisor, which checks them itself
    editor_schema: str = field(name="$schema", default="")
