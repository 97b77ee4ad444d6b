"""Where a workspace keeps its own things when the configuration says so (`options.data_directory`).

It is read before anything else, since the file in that directory is part of the configuration. What stands in that
file cannot move it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from protocol.errors import BadInput
from worker.config.expand import expand
from worker.config.files import look, merged_layers

DEFAULT_NAME = ".bulkhead"


def data_dir_of(workspace: Path, given: Path, env: Mapping[str, str]) -> Path:
    """The data directory of `workspace`. Blocks.

    Only the usual one gives way to the configuration: what a client asked for counts more, and a workspace that cannot
    be written has its own elsewhere. Files that are broken say nothing here; the load that follows tells of them.
    """
    if given != workspace / DEFAULT_NAME:
        return given
    layers = [looked.layer for looked in look(workspace, given, env) if looked.layer is not None]
    options = merged_layers([layer for layer in layers if layer.path.parent != given], []).merged.get("options")
    wanted = options.get("data_directory") if isinstance(options, dict) else None
    if not isinstance(wanted, str) or not wanted:
        return given
    try:
        path = expand(wanted, env, _no_command)
    except BadInput:
        return given
    if path == "~" or path.startswith("~/"):
        path = env.get("HOME", "~") + path[1:]
    return Path(os.path.normpath(workspace / path)) if path and "\0" not in path else given


def _no_command(command: str) -> str:
    raise BadInput("cannot use a command in options.data_directory: write a path")
