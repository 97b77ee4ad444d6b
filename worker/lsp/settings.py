"""Decide how each language server runs: its settings, completed from the catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.config.sections import LspSettings
from worker.lsp.catalogue import CATALOGUE, KnownServer, known_server

START_TIMEOUT_S = 30.0
"""How long a start may take unless the settings say otherwise."""


@dataclass(frozen=True)
class ServerPlan:
    """How to run a server. `command`, `args` and the values of `env` are templates that are expanded at each start."""

    name: str
    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    filetypes: tuple[str, ...] = ()
    root_markers: tuple[str, ...] = ()
    init_options: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    start_s: float = START_TIMEOUT_S
    is_disabled: bool = False


def plan_of(name: str, settings: LspSettings) -> ServerPlan:
    """Return the plan of a configured server; what its settings leave out comes from the catalogue."""
    known = known_server(name, settings.command)
    args = tuple(settings.args) if settings.args is not None else ()
    if settings.args is None and known is not None:
        args = known.args
    filetypes = tuple(settings.filetypes or ()) or (known.filetypes if known is not None else ())
    init_options = settings.init_options
    if init_options is None and known is not None and known.init_options:
        init_options = dict(known.init_options)
    return ServerPlan(
        name=name,
        command=settings.command or (known.command if known is not None else ""),
        args=args,
        env=dict(settings.env or {}),
        filetypes=filetypes,
        root_markers=tuple(settings.root_markers or ()),  # a configured server needs no marker to start
        init_options=init_options,
        options=settings.options or {},
        start_s=float(settings.timeout) if settings.timeout > 0 else START_TIMEOUT_S,
        is_disabled=settings.disabled,
    )


def plan_of_known(entry: KnownServer) -> ServerPlan:
    """Return the plan of a server of the catalogue that is not configured."""
    return ServerPlan(
        name=entry.name,
        command=entry.command,
        args=entry.args,
        filetypes=entry.filetypes,
        root_markers=entry.root_markers,
        init_options=dict(entry.init_options) or None,
    )


def catalogue_plan(name: str) -> ServerPlan | None:
    """Return the plan of the server of that name in the catalogue, or None."""
    return next((plan_of_known(entry) for entry in CATALOGUE if entry.name == name), None)
