"""Which configuration files count, from the lowest priority to the highest, and reading and merging them.

In every directory `crush.json` < `.crush.json` < `bulkhead.json` < `.bulkhead.json`. Two files are the program's own
(`edit.py` writes them): the state file of the user, below what a project says, and the one in the data directory,
above all. Everything here blocks: it is called before the loop starts or in a thread.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import BadInput

FILE_MAX_BYTES = 4 * 1024 * 1024
PROJECT_FILES = ("crush.json", ".crush.json", "bulkhead.json", ".bulkhead.json")
SYSTEM_DIR = Path("/etc")

Object = dict[str, object]


@dataclass(frozen=True, slots=True)
class Layers:
    """The merged configuration and where it came from."""

    merged: Object
    files: tuple[Path, ...]
    warnings: tuple[str, ...]


def read_layers(
    workspace: Path, data_dir: Path, env: Mapping[str, str], unwritten: Mapping[Path, Object] | None = None
) -> Layers:
    """Read and merge every file that exists. Raises BadInput naming file, line and column of what is not JSON.

    `unwritten` are contents that count instead of those of the files: how a change would turn out.
    """
    merged: Object = {}
    files: list[Path] = []
    warnings: list[str] = []
    for path, must_be_ours in _candidates(workspace, data_dir, env):
        if unwritten is not None and path in unwritten:
            merged = merge(merged, unwritten[path])
            files.append(path)
            continue
        try:
            status = path.stat()
        except OSError:
            continue
        if must_be_ours and status.st_uid != os.getuid():
            warnings.append(f"{path} is not used: it belongs to another user")
            continue
        if status.st_size > FILE_MAX_BYTES:
            raise BadInput(f"cannot read {path}: it is larger than {FILE_MAX_BYTES} bytes")
        layer = read_json(path)
        if layer:
            merged = merge(merged, layer)
            files.append(path)
    return Layers(merged, tuple(files), tuple(warnings))


def _candidates(workspace: Path, data_dir: Path, env: Mapping[str, str]) -> list[tuple[Path, bool]]:
    home = Path(env.get("HOME") or "/nonexistent")
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    data = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    state = state_file(env)
    found = [SYSTEM_DIR / "crush" / "crush.json", SYSTEM_DIR / "bulkhead" / "bulkhead.json"]
    found += [Path(env.get("CRUSH_GLOBAL_CONFIG") or config / "crush") / "crush.json"]
    found += [Path(env.get("CONFIGURATION_DIRECTORY") or config / "bulkhead") / "bulkhead.json"]
    found += [Path(env.get("CRUSH_GLOBAL_DATA") or data / "crush") / "crush.json", *([state] if state else [])]
    candidates = [(path, False) for path in found]
    for directory in project_dirs(workspace):
        candidates += [(directory / name, True) for name in PROJECT_FILES]
    return candidates + [(data_dir / name, False) for name in ("crush.json", "bulkhead.json")]


def state_file(env: Mapping[str, str]) -> Path | None:
    """Where the program keeps what its user chose for all workspaces; None when the user has no such place."""
    if data := env.get("XDG_DATA_HOME"):
        return Path(data) / "bulkhead" / "bulkhead.json"
    home = env.get("HOME")
    return Path(home) / ".local" / "share" / "bulkhead" / "bulkhead.json" if home else None


def project_dirs(workspace: Path) -> list[Path]:
    """The directories from the root of the git worktree down to `workspace`; only that one outside of git."""
    dirs: list[Path] = []
    for directory in (workspace, *workspace.parents):
        dirs.append(directory)
        if (directory / ".git").exists():
            return list(reversed(dirs))
    return [workspace]


def read_json(path: Path) -> Object:
    """The object in a file; empty for an empty file. Raises BadInput."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read {path}: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"cannot read {path}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise BadInput(f"cannot read {path}: it is nested too deeply") from None
    if not isinstance(value, dict):
        raise BadInput(f"cannot use {path}: it must hold one JSON object")
    return value


def merge(under: Object, over: Object) -> Object:
    """Objects recursively, arrays joined, everything else replaced; a null leaves what is under it."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if value is None:
            continue
        if isinstance(value, dict):
            merged[key] = merge(below if isinstance(below, dict) else {}, value)
        elif isinstance(value, list) and isinstance(below, list):
            merged[key] = below + value
        else:
            merged[key] = value
    return merged
