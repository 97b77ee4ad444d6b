"""The configuration of one workspace: layers read, merged, expanded and resolved into one frozen value.

`load_config` reads files and may run commands of `$(…)` templates, so it is called before the loop starts or in a
thread, never on the loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from protocol.errors import BadInput
from protocol.shapes.provider import ProviderConfig, SelectedModel
from worker.config.edit import RECENT_MAX
from worker.config.expand import Run, shell_runner
from worker.config.files import Object, read_layers
from worker.config.mask import Mask
from worker.config.resolve import resolve
from worker.config.sections import HookSettings, LspSettings

_WIRE_OBJECTS = ("mcp", "lsp", "tools", "hooks", "env")


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """How commits say who helped."""

    trailer_style: Literal["assisted-by", "co-authored-by", "none"] = "assisted-by"
    generated_with: bool = True


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options that the worker itself obeys; the others only pass through to clients."""

    context_paths: list[str] = []
    global_context_paths: list[str] = []
    disabled_tools: list[str] = []
    skills_paths: list[str] = []
    disabled_skills: list[str] = []
    data_directory: str = ""
    disable_auto_summarize: bool = False
    disable_default_providers: bool = False
    debug: bool = False
    auto_lsp: bool | None = None
    attribution: Attribution = msgspec.field(default_factory=Attribution)


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    allowed_tools: list[str] = []


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of the merged files that the worker reads; unknown ones pass."""

    models: dict[str, SelectedModel] = {}
    providers: dict[str, ProviderConfig] = {}
    options: Options = msgspec.field(default_factory=Options)
    permissions: Permissions = msgspec.field(default_factory=Permissions)
    env: dict[str, str] = {}
    lsp: dict[str, LspSettings] | None = None
    hooks: dict[str, list[HookSettings]] | None = None


@dataclass(frozen=True)
class Config:
    """Everything that was configured, ready for use. `providers` hold real keys: only `wire` and `shown_providers` may
    leave the process."""

    providers: dict[str, ProviderConfig] = field(repr=False)
    models: dict[str, SelectedModel]
    allowed_tools: tuple[str, ...]
    options: Options
    env: dict[str, str]
    hint: str
    """For people: why the scripted model answers. Empty when a real one does."""
    warnings: tuple[str, ...]
    files: tuple[Path, ...]
    secrets: tuple[str, ...] = field(repr=False)
    """Texts that no log, event or error may show; for `Redactor.register`."""
    data_dir: Path = Path()
    lsp: dict[str, LspSettings] = field(repr=False, default_factory=dict)
    hooks: dict[str, list[HookSettings]] = field(default_factory=dict)
    raw: Object = field(repr=False, default_factory=dict)

    def wire(self) -> bytes:
        """The `Config` of the HTTP API: `providers` and `options.tui` are objects, secrets are masked."""
        mask = self._mask()
        options = self.raw.get("options")
        shown = dict(options) if isinstance(options, dict) else {}
        tui = shown.get("tui")
        shown["tui"] = tui if isinstance(tui, dict) else {}
        shown["data_directory"] = str(self.data_dir)
        wire: Object = {
            "models": {kind: mask.choice(model) for kind, model in self.models.items()},
            "providers": self.shown_providers(),
            "options": shown,
            "permissions": {"allowed_tools": list(self.allowed_tools)},
        }
        for key in _WIRE_OBJECTS:
            value = self.raw.get(key)
            if isinstance(value, dict):
                wire[key] = mask.tree(value, is_secret=key == "env")
        recent = self.raw.get("recent_models")
        if isinstance(recent, dict):
            wire["recent_models"] = {
                kind: mask.tree({"": _recent(found)})[""] for kind, found in recent.items() if isinstance(found, list)
            }
        return msgspec.json.encode(wire)

    def shown_providers(self) -> dict[str, ProviderConfig]:
        """The providers as clients may see them."""
        mask = self._mask()
        return {name: mask.provider(provider) for name, provider in self.providers.items()}

    def _mask(self) -> Mask:
        return Mask(self.secrets)


def load_config(
    workspace: Path,
    data_dir: Path,
    env: Mapping[str, str],
    *,
    default_model: str = "",
    run: Run | None = None,
    chosen: Mapping[str, SelectedModel] | None = None,
    unwritten: Mapping[Path, Object] | None = None,
) -> Config:
    """Read the configuration of `workspace`. Blocks; see the top of the file.

    `default_model` (`provider/model`) wins over the files, `chosen` over both: what somebody picked while this worker
    lives. `unwritten` stands for files as in `read_layers`. Raises BadInput: what is wrong in which file.
    """
    layers = read_layers(workspace, data_dir, env, unwritten)
    chosen = chosen or {}
    try:
        known = msgspec.convert(layers.merged, _File, strict=False)
    except msgspec.ValidationError as error:
        names = ", ".join(str(path) for path in layers.files)
        raise BadInput(f"cannot use the configuration of {names}: {error}") from None
    resolved = resolve(
        known.providers,
        {**known.models, **chosen},
        use_known=not known.options.disable_default_providers,
        default_model="" if "large" in chosen else default_model,
        env=env,
        run=run or shell_runner(workspace, env),
    )
    return Config(
        providers=resolved.providers,
        models=resolved.models,
        allowed_tools=tuple(known.permissions.allowed_tools),
        options=known.options,
        env=known.env,
        hint=resolved.hint,
        warnings=layers.warnings + resolved.warnings,
        files=layers.files,
        secrets=resolved.secrets,
        data_dir=data_dir,
        lsp=known.lsp or {},
        hooks=known.hooks or {},
        raw=layers.merged,
    )


def _recent(models: list[object]) -> list[object]:
    """The lists of several files come joined: each model once, and no more than one file may hold."""
    found: list[object] = []
    for model in models:
        if model not in found:
            found.append(model)
    return found[:RECENT_MAX]
