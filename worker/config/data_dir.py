"""Find the data directory of a workspace, which `options.data_directory` may set.

This is read before the rest of the configuration, because the data directory contains a configuration file. That file
itself cannot set the option.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from protocol.errors import BadInput
from protocol.ids import WorkspaceId
from protocol.workspace_mark import read_mark
from worker.config.expand import expand
from worker.config.files import examine_files, merged_layers

DEFAULT_NAME = ".bulkhead"


def data_dir_of(workspace: Path, given: Path, env: Mapping[str, str]) -> Path:
    """Return the data directory of `workspace`. Blocks.

    The configuration only replaces the default directory: a directory named by a client wins, as does the separate
    directory of a workspace that cannot be written. Invalid files are ignored here; the load that follows reports them.
    """
    if given != workspace / DEFAULT_NAME:
        return given
    layers = [file.layer for file in examine_files(workspace, given, env) if file.layer is not None]
    options = merged_layers([layer for layer in layers if layer.path.parent != given], []).merged.get("options")
    configured = options.get("data_directory") if isinstance(options, dict) else None
    if not isinstance(configured, str) or not configured:
        return given
    try:
        path = expand(configured, env, _no_command)
    except BadInput:
        return given
    if path == "~" or path.startswith("~/"):
        path = env.get("HOME", "~") + path[1:]
    return Path(os.path.normpath(workspace / path)) if path and "\0" not in path else given


def own_place(workspace: Path, data_dir: Path, workspace_id: WorkspaceId) -> Path:
    """Return where a workspace keeps its data, given its configured data directory. Blocks.

    A directory outside the workspace may be configured for several: the first one has it, and marks it with its id;
    each other one has a directory below it, named by its id.
    """
    if not is_outside(workspace, data_dir) or read_mark(data_dir) in (None, workspace_id):
        return data_dir
    return data_dir / workspace_id


def is_outside(workspace: Path, data_dir: Path) -> bool:
    """Return whether a data directory is not inside the workspace, links resolved. Blocks."""
    return not Path(os.path.realpath(data_dir)).is_relative_to(os.path.realpath(workspace))


def _no_command(command: str) -> str:
    raise BadInput("cannot use a command in options.data_directory: give a path")
