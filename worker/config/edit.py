"""Change the configuration files that belong to the program: the user's state file, and one file of each workspace.

Under a lock, the file is read, changed, tried and then replaced as a whole; if any step fails it stays as it was.
Unknown keys are kept, and the order of keys too. Everything here except the functions on trees blocks.
"""

import contextlib
import fcntl
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from protocol.api.config import WORKSPACE
from protocol.base.atomic_file import replace_file
from protocol.base.clock import Clock
from protocol.errors import BadInput, LimitReached, Unavailable
from worker.config.files import FILE_MAX_BYTES, Object, read_json, state_file

T = TypeVar("T")

LOCK_S = 5.0
LOCK_POLL_S = 0.02
RECENT_MAX = 5
_NAME = re.compile(r"(?:\\.|[^.\\])+")
_ESCAPED = str.maketrans({char: f"\\{char}" for char in "\\$`'\""})
_DISK_FULL = frozenset({28, 122})  # ENOSPC, EDQUOT


def file_of(scope: int, data_dir: Path, env: Mapping[str, str]) -> Path:
    """Return the file that a scope is written to. Raises BadInput if neither HOME nor XDG_DATA_HOME is set."""
    if scope == WORKSPACE:
        return data_dir / "bulkhead.json"
    path = state_file(env)
    if path is None:
        raise BadInput("cannot write the configuration of this user: neither HOME nor XDG_DATA_HOME is set")
    return path


def edit_file(path: Path, change: Callable[[Object], None], attempt: Callable[[Object], T], clock: Clock) -> T:
    """Apply `change` to the object in `path`, try the result with `attempt`, and write it; returns `attempt`'s value.

    Raises BadInput if the file is not a JSON object, whatever `change` and `attempt` raise, Unavailable with the code
    `storage_busy` if another process keeps the lock or `storage_failed`, and LimitReached (`storage_full`). The file is
    then unchanged.
    """
    path = Path(os.path.realpath(path))  # keep a symbolic link, for example into a directory of dotfiles
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.with_name(path.name + ".lock"), clock):
            tree = read_json(path) if path.exists() else {}
            change(tree)
            result = attempt(tree)
            _replace(path, tree)
            return result
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise LimitReached(f"cannot write {path}: the disk is full", code="storage_full") from None
        raise Unavailable(f"cannot write {path}: {error.strerror}", code="storage_failed", retryable=False) from None


@contextlib.contextmanager
def _locked(path: Path, clock: Clock) -> Iterator[None]:
    # The lock file is never removed: that could remove a file that another process has just locked.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = clock.now() + LOCK_S
        pause = threading.Event()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.now() >= deadline:
                    reason = f"another process has kept {path} locked for {LOCK_S:g} s; try again"
                    raise Unavailable(
                        f"cannot change the configuration: {reason}",
                        code="storage_busy",
                    ) from None
                pause.wait(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, tree: Object) -> None:
    try:
        data = json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (ValueError, RecursionError) as error:
        raise BadInput(f"cannot write this value to {path}: {error}") from None
    if len(data) > FILE_MAX_BYTES:
        raise BadInput(f"cannot write {path}: it would be larger than {FILE_MAX_BYTES} bytes", code="too_large")
    replace_file(path, data, sync=True, sync_directory=True)


# --- trees --------------------------------------------------------------------------------------------------------


def names_of(key: str) -> list[str]:
    """Split a dotted path into names; `\\.` is a dot inside a name. Raises BadInput."""
    parts = _NAME.findall(key)
    names = [re.sub(r"\\(.)", r"\1", part) for part in parts]
    if ".".join(parts) != key or not names:
        raise BadInput(f"cannot use the key {key[:200]!r}: it must be names separated by dots, none of them empty")
    return names


def set_key(tree: Object, names: Sequence[str], value: object) -> None:
    """Set a key, making missing objects on the way. Raises BadInput if a value on the way is not an object."""
    *parents, last = names
    for depth, name in enumerate(parents):
        child = tree.setdefault(name, {})
        if child is None:
            child = tree[name] = {}
        if not isinstance(child, dict):
            path = ".".join(names[: depth + 1])
            raise BadInput(f"cannot set {'.'.join(names)}: {path} is not an object; remove or change it first")
        tree = child
    tree[last] = value


def literal(text: str) -> str:
    """Return the template that expands to `text`. API keys in the files are templates."""
    return text.translate(_ESCAPED)


def remove_key(tree: Object, names: Sequence[str]) -> None:
    """Remove a key if it exists."""
    *parents, last = names
    for name in parents:
        child = tree.get(name)
        if not isinstance(child, dict):
            return
        tree = child
    tree.pop(last, None)


def remember_model(tree: Object, model_type: str, model: Object) -> None:
    """Put a model first in the list of recent models of its type, which holds at most `RECENT_MAX`."""
    recent = tree.get("recent_models")
    current = recent.get(model_type) if isinstance(recent, dict) else None
    others = [
        item
        for item in (current if isinstance(current, list) else [])
        if isinstance(item, dict) and (item.get("provider"), item.get("model")) != (model["provider"], model["model"])
    ]
    set_key(tree, ["recent_models", model_type], [model, *others][:RECENT_MAX])
