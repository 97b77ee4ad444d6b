"""Find this user's running server by the lock of the default state directory.

cron, ssh and su often leave XDG_RUNTIME_DIR unset, or set to another user's directory; the server then listens at
another place than these surroundings suggest. The state directory depends only on the home directory.
"""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from protocol.address import UnixAddress, default_state_dir, parse_address
from protocol.base.process_identity import boot_id, start_ticks

_LOCK_MAX_BYTES = 65536
_PROBE_S = 1.0


def answers(address: UnixAddress) -> bool:
    """Return whether a process listens at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(address.path))
        except OSError:
            return False
    return True


def running_address(env: Mapping[str, str]) -> UnixAddress | None:
    """Return the Unix socket of the server that owns the default state directory; None when none can be reached."""
    home = Path(env.get("HOME") or os.path.expanduser("~"))
    try:
        with (default_state_dir(env, home) / "supervisor.lock").open("rb") as file:
            owner = json.loads(file.read(_LOCK_MAX_BYTES))
        if owner["boot_id"] != boot_id() or start_ticks(int(owner["pid"])) != owner["start_ticks"]:
            return None
        listeners = [parse_address(str(name)) for name in owner.get("listeners", ())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    for address in listeners:
        if isinstance(address, UnixAddress) and _is_ours(address.path) and answers(address):
            return address
    return None


def _is_ours(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except OSError:
        return False
