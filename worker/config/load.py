"""Load the configuration of a workspace: read and merge the files, expand templates, resolve providers and models.

`load_config` reads files and may run the commands of `$(…)` templates, so it must be called before the loop starts or
in a thread, never on the loop.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec.structs import replace

from protocol.api.provider import ProviderConfig, SelectedModel
from protocol.secrets import is_secret_name
from worker.config.check import InvalidConfig, convert, error_text, unknown_keys
from worker.config.discover import DISCOVERY
from worker.config.edit import RECENT_MAX
from worker.config.expand import BadTemplate, Run, TimeBudget, expand, shell_runner
from worker.config.files import FilesState, Layers, Object, files_state, read_layers
from worker.config.json_positions import KeyPath, dotted
from worker.config.provenance import Provenance
from worker.config.redaction import Redaction
from worker.config.resolve import ResolvedProviders, resolve
from worker.config.schema import Options, Schema, ToolSettings
from worker.config.sections import HookSettings, LspSettings, McpSettings

_WIRE_OBJECTS = ("mcp", "lsp", "tools", "hooks", "env")
_CRUSH_PREFIX = "CRUSH_"
"""While providers load, variables with this prefix are also visible without it."""

_TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class WorkspaceConfig:
    """The complete configuration, ready for use.

    `providers` contain real keys: only the results of `wire` and `shown_providers` may leave the process.
    """

    providers: dict[str, ProviderConfig] = field(repr=False)
    models: dict[str, SelectedModel]
    allowed_tools: tuple[str, ...]
    options: Options
    env: dict[str, str] = field(repr=False)
    """Variables for all processes that the worker starts, expanded, sorted by name."""
    hint: str
    """Tells the user why no configured model answers; "" if one does."""
    warnings: tuple[str, ...]
    files: tuple[Path, ...]
    secrets: tuple[str, ...] = field(repr=False)
    """Texts that must not appear in logs, events or errors; for `Redactor.register`."""
    data_dir: Path = Path()
    lsp: dict[str, LspSettings] = field(repr=False, default_factory=dict)
    hooks: dict[str, list[HookSettings]] = field(default_factory=dict)
    mcp: dict[str, McpSettings] = field(repr=False, default_factory=dict)
    tools: ToolSettings = field(default_factory=ToolSettings)
    raw: Object = field(repr=False, default_factory=dict)
    model_problem: str = ""
    """Why the models that the configuration asks for cannot be used, so that no prompt is accepted; "" if they can."""
    state: FilesState | None = field(repr=False, default=None, compare=False)
    """Of the files, before they were read; None for a configuration without files."""

    def wire(self) -> bytes:
        """Return the `Config` of the HTTP API as JSON: `providers` and `options.tui` are objects, secrets masked."""
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
                if server.get("command") or server.get("url")  # else only a stored token
            }
        recent = self.raw.get("recent_models")
        if isinstance(recent, dict):
            wire["recent_models"] = {
                kind: mask.tree({"": _recent(models)})[""]
                for kind, models in recent.items()
                if isinstance(models, list)
            }
        return msgspec.json.encode(wire)

    def shown_providers(self) -> dict[str, ProviderConfig]:
        """Return the providers with their secrets masked."""
        mask = self._mask()
        return {name: mask.provider(provider) for name, provider in self.providers.items()}

    def _mask(self) -> Redaction:
        return Redaction(self.secrets)


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
) -> WorkspaceConfig:
    """Load the configuration of `workspace`. Blocks; see the module docstring.

    `default_model` (`provider/model`) overrides the files, and `chosen`, the models selected since the worker started,
    overrides both. `local_model` is the socket of the local model, "" for none. `unwritten` replaces the contents of
    files as in `read_layers`. Raises BadInput with the file and the error.
    """
    state = files_state(workspace, data_dir, env)  # before the files: a change while they are read is then seen later
    config = config_of(
        read_layers(workspace, data_dir, env, unwritten),
        workspace,
        data_dir,
        env,
        default_model=default_model,
        local_model=local_model,
        run=run,
        chosen=chosen,
    )
    return dataclasses.replace(config, state=state)


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
) -> WorkspaceConfig:
    """Do the same as `load_config` for files that have been read. Blocks."""
    schema = convert(layers)
    budget = TimeBudget()

    def runner(variables: Mapping[str, str]) -> Run:
        return run or shell_runner(workspace, variables, budget=budget)

    own_env = _environment(schema.env, layers, env, runner)
    resolved = _resolved(schema, layers, {**env, **own_env}, default_model, local_model, runner, chosen or {})
    return WorkspaceConfig(
        providers=resolved.providers,
        models=resolved.models,
        allowed_tools=tuple(schema.permissions.allowed_tools),
        options=_options(schema.options, layers.merged),
        env=own_env,
        hint=resolved.hint,
        warnings=(*layers.warnings, *unknown_keys(layers), *resolved.warnings),
        files=layers.files,
        secrets=(*resolved.secrets, *(value for name, value in own_env.items() if value and is_secret_name(name))),
        data_dir=data_dir,
        lsp=schema.lsp,
        hooks=schema.hooks,
        mcp=schema.mcp,
        tools=schema.tools,
        raw=layers.merged,
        model_problem=resolved.problem,
    )


def _environment(
    templates: Mapping[str, str], layers: Layers, env: Mapping[str, str], runner: Callable[[Mapping[str, str]], Run]
) -> dict[str, str]:
    """Expand the section `env` in the order of names; each value can use those before it."""
    values: dict[str, str] = {}
    variables = dict(env)
    run = runner(variables)
    for name in sorted(templates):
        try:
            values[name] = variables[name] = expand(templates[name], variables, run)
        except BadTemplate as error:
            raise _located(error, layers, ("env", name)) from None
        if not name or "=" in name or "\0" in name + values[name]:  # no process could be started with it
            at = ("env", name)
            rule = "the name must not be empty or contain `=`, and name and value must not contain NUL"
            text = f"{dotted(at)} cannot be a variable: {rule}"
            raise InvalidConfig([error_text(Provenance(layers.layers), at, text)])
    return values


def _resolved(
    schema: Schema,
    layers: Layers,
    env: Mapping[str, str],
    default_model: str,
    local_model: str,
    runner: Callable[[Mapping[str, str]], Run],
    chosen: Mapping[str, SelectedModel],
) -> ResolvedProviders:
    unprefixed = {name.removeprefix(_CRUSH_PREFIX): env[name] for name in sorted(env) if name.startswith(_CRUSH_PREFIX)}
    env = {**env, **{name: value for name, value in unprefixed.items() if name}}
    is_catalogue_disabled = env.get("CRUSH_DISABLE_DEFAULT_PROVIDERS", "").lower() in _TRUE
    try:
        return resolve(
            schema.providers,
            {**schema.models, **chosen},
            use_known=not (schema.options.disable_default_providers or is_catalogue_disabled),
            default_model="" if "large" in chosen else default_model,
            env=env,
            run=runner(env),
            discovery=DISCOVERY,
            local_model=local_model,
        )
    except BadTemplate as error:
        for provider_id, provider in schema.providers.items():
            for header, template in provider.extra_headers.items():
                if template == error.template:
                    raise _located(error, layers, ("providers", provider_id, "extra_headers", header)) from None
        raise


def _located(error: BadTemplate, layers: Layers, at: KeyPath) -> InvalidConfig:
    return InvalidConfig([error_text(Provenance(layers.layers), at, f"{dotted(at)}: {error.message}")])


def _options(options: Options, merged: Object) -> Options:
    """Apply the older key `co_authored_by` where the newer `trailer_style` is not set."""
    attribution = options.attribution
    section = merged.get("options")
    written = section.get("attribution") if isinstance(section, dict) else None
    if attribution.co_authored_by is None or (isinstance(written, dict) and "trailer_style" in written):
        return options
    style = "co-authored-by" if attribution.co_authored_by else "none"
    return replace(options, attribution=replace(attribution, trailer_style=style))


def _recent(models: list[object]) -> list[object]:
    """Return each model once, at most `RECENT_MAX`: the lists of several files have been joined."""
    unique: list[object] = []
    for model in models:
        if model not in unique:
            unique.append(model)
    return unique[:RECENT_MAX]
