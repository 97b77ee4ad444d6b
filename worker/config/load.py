"""The configuration of one workspace: layers read, merged, expanded and resolved into one frozen value.

`load_config` reads files and may run commands of `$(…)` templates, so it is called before the loop starts or in a
thread, never on the loop.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec.structs import replace

from protocol.api.provider import ProviderConfig, SelectedModel
from protocol.secrets import is_secret_name
from worker.config.check import Broken, convert, place, unknown_keys
from worker.config.discover import DISCOVERY
from worker.config.edit import RECENT_MAX
from worker.config.expand import BadTemplate, Patience, Run, expand, shell_runner
from worker.config.files import Layers, Object, read_layers
from worker.config.json_positions import KeyPath, dotted
from worker.config.provenance import Sources
from worker.config.redaction import Mask
from worker.config.resolve import Resolved, resolve
from worker.config.schema import Options, Schema, ToolSettings
from worker.config.sections import HookSettings, LspSettings, McpSettings

_WIRE_OBJECTS = ("mcp", "lsp", "tools", "hooks", "env")
_BORROWED = "CRUSH_"
"""Variables that begin so are seen without it as well while providers load."""

_TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Config:
    """Everything that was configured, ready for use. `providers` hold real keys: only `wire` and `shown_providers` may
    leave the process."""

    providers: dict[str, ProviderConfig] = field(repr=False)
    models: dict[str, SelectedModel]
    allowed_tools: tuple[str, ...]
    options: Options
    env: dict[str, str] = field(repr=False)
    """Variables for everything that the worker starts, expanded, sorted by name."""
    hint: str
    """For people: why the scripted model answers. Empty when a real one does."""
    warnings: tuple[str, ...]
    files: tuple[Path, ...]
    secrets: tuple[str, ...] = field(repr=False)
    """Texts that no log, event or error may show; for `Redactor.register`."""
    data_dir: Path = Path()
    lsp: dict[str, LspSettings] = field(repr=False, default_factory=dict)
    hooks: dict[str, list[HookSettings]] = field(default_factory=dict)
    mcp: dict[str, McpSettings] = field(repr=False, default_factory=dict)
    tools: ToolSettings = field(default_factory=ToolSettings)
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
        if isinstance(servers := wire.get("mcp"), dict):
            wire["mcp"] = {
                name: {"type": "http" if server.get("url") else "stdio", **server}
                for name, server in servers.items()
                if server.get("command") or server.get("url")  # else: no more than the token of another project
            }
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
    local_model: str = "",
    run: Run | None = None,
    chosen: Mapping[str, SelectedModel] | None = None,
    unwritten: Mapping[Path, Object] | None = None,
) -> Config:
    """Read the configuration of `workspace`. Blocks; see the top of the file.

    `default_model` (`provider/model`) wins over the files, `chosen` over both: what somebody picked while this worker
    lives. `local_model` is the socket of the machine's own one, "" for none. `unwritten` stands for files as in
    `read_layers`. Raises BadInput: what is wrong in which file.
    """
    return config_of(
        read_layers(workspace, data_dir, env, unwritten),
        workspace,
        data_dir,
        env,
        default_model=default_model,
        local_model=local_model,
        run=run,
        chosen=chosen,
    )


def config_of(
    layers: Layers,
    workspace: Path,
    data_dir: Path,
    env: Mapping[str, str],
    *,
    default_model: str = "",
    local_model: str = "",
    run: Run | None = None,
    chosen: Mapping[str, SelectedModel] | None = None,
) -> Config:
    """`load_config` of files that are read already. Blocks as well."""
    known = convert(layers)
    patience = Patience()

    def runner(seen: Mapping[str, str]) -> Run:
        return run or shell_runner(workspace, seen, patience=patience)

    own_env = _environment(known.env, layers, env, runner)
    resolved = _resolved(known, layers, {**env, **own_env}, default_model, local_model, runner, chosen or {})
    return Config(
        providers=resolved.providers,
        models=resolved.models,
        allowed_tools=tuple(known.permissions.allowed_tools),
        options=_options(known.options, layers.merged),
        env=own_env,
        hint=resolved.hint,
        warnings=(*layers.warnings, *unknown_keys(layers), *resolved.warnings),
        files=layers.files,
        secrets=(*resolved.secrets, *(value for name, value in own_env.items() if value and is_secret_name(name))),
        data_dir=data_dir,
        lsp=known.lsp,
        hooks=known.hooks,
        mcp=known.mcp,
        tools=known.tools,
        raw=layers.merged,
    )


def _environment(
    templates: Mapping[str, str], layers: Layers, env: Mapping[str, str], runner: Callable[[Mapping[str, str]], Run]
) -> dict[str, str]:
    """The section `env`, each value expanded with those before it in sight."""
    values: dict[str, str] = {}
    seen = dict(env)
    run = runner(seen)
    for name in sorted(templates):
        try:
            values[name] = seen[name] = expand(templates[name], seen, run)
        except BadTemplate as error:
            raise _located(error, layers, ("env", name)) from None
        if not name or "=" in name or "\0" in name + values[name]:  # nothing could be started with it
            at = ("env", name)
            text = f"{dotted(at)}: this cannot be a variable: its name must not be empty nor hold `=`, and nothing NUL"
            raise Broken([place(Sources(layers.layers), at, text)])
    return values


def _resolved(
    known: Schema,
    layers: Layers,
    env: Mapping[str, str],
    default_model: str,
    local_model: str,
    runner: Callable[[Mapping[str, str]], Run],
    chosen: Mapping[str, SelectedModel],
) -> Resolved:
    borrowed = {name.removeprefix(_BORROWED): env[name] for name in sorted(env) if name.startswith(_BORROWED)}
    env = {**env, **{name: value for name, value in borrowed.items() if name}}
    is_off = env.get("CRUSH_DISABLE_DEFAULT_PROVIDERS", "").lower() in _TRUE
    try:
        return resolve(
            known.providers,
            {**known.models, **chosen},
            use_known=not (known.options.disable_default_providers or is_off),
            default_model="" if "large" in chosen else default_model,
            env=env,
            run=runner(env),
            discovery=DISCOVERY,
            local_model=local_model,
        )
    except BadTemplate as error:
        for provider_id, provider in known.providers.items():
            for header, template in provider.extra_headers.items():
                if template == error.template:
                    raise _located(error, layers, ("providers", provider_id, "extra_headers", header)) from None
        raise


def _located(error: BadTemplate, layers: Layers, at: KeyPath) -> Broken:
    return Broken([place(Sources(layers.layers), at, f"{dotted(at)}: {error.message}")])


def _options(options: Options, merged: Object) -> Options:
    """The options with what an older key says put where the newer one is."""
    marks = options.attribution
    section = merged.get("options")
    written = section.get("attribution") if isinstance(section, dict) else None
    if marks.co_authored_by is None or (isinstance(written, dict) and "trailer_style" in written):
        return options
    style = "co-authored-by" if marks.co_authored_by else "none"
    return replace(options, attribution=replace(marks, trailer_style=style))


def _recent(models: list[object]) -> list[object]:
    """The lists of several files come joined: each model once, and no more than one file may hold."""
    found: list[object] = []
    for model in models:
        if model not in found:
            found.append(model)
    return found[:RECENT_MAX]
