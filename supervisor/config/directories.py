"""Find the directories that a server uses unless it is configured otherwise: systemd's variables, then XDG's."""

import os
from collections.abc import Mapping
from pathlib import Path

from protocol import address
from protocol.address import first_directory


def default_runtime_dir(env: Mapping[str, str]) -> Path:
    """Return where sockets and the lock are kept."""
    return address.default_runtime_dir(env, os.getuid())


def default_state_dir(env: Mapping[str, str]) -> Path:
    """Return where the list of workspaces is kept."""
    return address.default_state_dir(env, _home(env))


def default_config_file(env: Mapping[str, str]) -> Path:
    """Return the configuration file of the user. It need not exist."""
    given = first_directory(env.get("CONFIGURATION_DIRECTORY", ""))
    return (given or Path(env.get("XDG_CONFIG_HOME") or _home(env) / ".config") / "bulkhead") / "bulkhead.json"


def _home(env: Mapping[str, str]) -> Path:
    return Path(env.get("HOME") or os.path.expanduser("~"))
