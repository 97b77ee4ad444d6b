"""Write the text of `crush_info`: sections of lines, with every secret masked (X08)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from protocol.api.lsp import LspInfo
from protocol.api.mcp import McpInfo
from protocol.api.provider import ProviderConfig
from protocol.api.services import SkillState
from protocol.errors import BadInput
from protocol.version import BULKHEAD_VERSION
from protocol.worker_spec import WorkerSpec
from worker.config.files import read_layers
from worker.config.load import WorkspaceConfig
from worker.config.redaction import Redaction

SHOWN_MAX_CHARACTERS = 30_000
_LSP_STATES = ("not started", "starting", "ready", "error", "stopped", "disabled")
_SHOWN_ELSEWHERE = ("attribution", "disabled_tools", "tui", "data_directory")


@dataclass(frozen=True)
class WorkerSnapshot:
    """The state of the worker's extensions at one moment."""

    skip_permissions: bool
    lsp: Mapping[str, LspInfo]
    mcp: Mapping[str, McpInfo]
    skills: Sequence[SkillState]


def info_text(worker: WorkerSpec, config: WorkspaceConfig, snapshot: WorkerSnapshot) -> str:
    """Return all sections. Reads the configuration files again to compare; blocks."""
    sections = {
        "program": _program(worker, config),
        "config files": (str(path) for path in config.files),
        "config staleness": _staleness(worker, config),
        "models": _models(config),
        "providers": (_provider(provider) for provider in config.shown_providers().values()),
        "language servers": _language_servers(config, snapshot),
        "mcp servers": _mcp_servers(config, snapshot),
        "skills": (_with_error(f"{skill.name}: {skill.path}", skill.error) for skill in snapshot.skills),
        "hooks": _hooks(config),
        "permissions": _permissions(worker, config, snapshot),
        "disabled tools": iter(config.options.disabled_tools),
        "options": _options(config),
        "attribution": _pairs(msgspec.to_builtins(config.options.attribution)),
        "warnings": iter(config.warnings),
    }
    blocks = ["\n".join([f"[{name}]", *(list(lines) or ["none"])]) for name, lines in sections.items()]
    # Errors and commands may hold a secret as well.
    text = str(Redaction(config.secrets).tree({"": "\n\n".join(blocks)})[""])
    if len(text) > SHOWN_MAX_CHARACTERS:
        text = f"{text[:SHOWN_MAX_CHARACTERS]}\n[the rest is left out]"
    return text


def _program(worker: WorkerSpec, config: WorkspaceConfig) -> Iterator[str]:
    yield f"Bulkhead {BULKHEAD_VERSION}"
    yield f"workspace: {worker.path}"
    yield f"data directory: {config.data_dir}"
    yield f"log file: {worker.log_path or 'none'}"
    if config.env:
        yield f"variables for commands: {', '.join(config.env)}"


def _staleness(worker: WorkerSpec, config: WorkspaceConfig) -> Iterator[str]:
    """Compare the files with what this configuration was made from. Runs no command that they name."""
    again = "this turn does not know it; `bulkhead restart` reads the files again"
    try:
        layers = read_layers(Path(worker.path), Path(worker.data_dir), worker.env)
    except BadInput as error:
        yield f"changed: a file cannot be used as it is now ({error.message})"
        return
    changed = sorted(key for key in {*layers.merged, *config.raw} if layers.merged.get(key) != config.raw.get(key))
    if changed:
        yield f"changed since it was read: {', '.join(changed)}; {again}"
    if layers.files != config.files:
        yield f"other files than those above are in use now: {', '.join(map(str, layers.files)) or 'none'}; {again}"
    if not changed and layers.files == config.files:
        yield "up to date: the files say what is in use"


def _models(config: WorkspaceConfig) -> Iterator[str]:
    for kind, chosen in config.models.items():
        provider = config.providers.get(chosen.provider)
        model = next((model for model in provider.models if model.id == chosen.model), None) if provider else None
        more = [f"reasoning effort {chosen.reasoning_effort}"] if chosen.reasoning_effort else []
        more += ["thinking"] if chosen.think else []
        more += [f"at most {chosen.max_tokens} tokens out"] if chosen.max_tokens else []
        more += [f"context {model.context_window} tokens"] if model else []
        yield f"{kind}: {chosen.provider}/{chosen.model}" + (f" ({', '.join(more)})" if more else "")
    if config.hint:
        yield config.hint


def _provider(provider: ProviderConfig) -> str:
    """Describe a provider that is masked already."""
    access = "logged in" if provider.oauth is not None else "with a key" if provider.api_key else "without a key"
    state = "disabled" if provider.disable else access
    where = f", {provider.base_url}" if provider.base_url else ""
    return f"{provider.id}: type {provider.type or 'unknown'}, {state}, {len(provider.models)} models{where}"


def _language_servers(config: WorkspaceConfig, snapshot: WorkerSnapshot) -> Iterator[str]:
    for name, server in snapshot.lsp.items():
        diagnostics = f", {server.diagnostic_count} diagnostics" if server.diagnostic_count else ""
        yield _with_error(f"{name}: {_LSP_STATES[server.state]}{diagnostics}", server.error)
    for name, settings in config.lsp.items():
        if name not in snapshot.lsp:
            yield f"{name}: {'disabled' if settings.disabled else 'configured, no file needed it yet'}"
    is_automatic = config.options.auto_lsp is not False
    yield f"servers that are not configured are {'started where they fit' if is_automatic else 'never started'}"


def _mcp_servers(config: WorkspaceConfig, snapshot: WorkerSnapshot) -> Iterator[str]:
    for name, server in snapshot.mcp.items():
        offers = f"{server.tool_count} tools, {server.prompt_count} prompts, {server.resource_count} resources"
        yield _with_error(f"{name}: {server.state}, {offers}", server.error)
    for name, settings in config.mcp.items():
        if name not in snapshot.mcp and (settings.command or settings.url):
            yield f"{name}: {'disabled' if settings.disabled else 'not started'}"


def _hooks(config: WorkspaceConfig) -> Iterator[str]:
    for event, hooks in config.hooks.items():
        for hook in hooks:
            yield f"{event}: {hook.name or hook.command} for {hook.matcher or 'all tools'}"


def _permissions(worker: WorkerSpec, config: WorkspaceConfig, snapshot: WorkerSnapshot) -> Iterator[str]:
    if snapshot.skip_permissions:
        yield "skipped: tools run without asking in this workspace"
    else:
        yield f"never asked for: {', '.join(config.allowed_tools) or 'nothing'}"
    yield f"commands are confined: {worker.env.get('BULKHEAD_CONFINE') or config.tools.confine}"


def _options(config: WorkspaceConfig) -> Iterator[str]:
    options = Redaction(config.secrets).tree(msgspec.to_builtins(config.options))
    return _pairs({key: value for key, value in options.items() if key not in _SHOWN_ELSEWHERE and value is not None})


def _pairs(values: dict[str, object]) -> Iterator[str]:
    return (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None)


def _with_error(text: str, error: str) -> str:
    return f"{text} ({error})" if error else text
