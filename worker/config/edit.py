"""Changes to the configuration files that belong to the program: one user's state file, one file of each workspace.

A change is read, made, tried and written under a lock on the file: the file is replaced by a whole new one or stays
as it is. What the program does not know is kept, in its order. Everything here but the functions on trees blocks.
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
_TEMPLATE_SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "\\$`'\""})
_FULL = frozenset({28, 122})  # ENOSPC, EDQUOT


def file_of(scope: int, data_dir: Path, env: Mapping[str, str]) -> Path:
    """The file that a scope is written to. Raises BadInput when this user has no directory for it."""
    if scope == WORKSPACE:
        return data_dir / "bulkhead.json"
    path = state_file(env)
    if path is None:
        raise BadInput("cannot write the configuration of this user: neither HOME nor XDG_DATA_HOME is set")
    return path


def edit_file(path: Path, change: Callable[[Object], None], attempt: Callable[[Object], T], clock: Clock) -> T:
    """Apply `change` to the object in `path` and write it, if `attempt` takes the new object; what that returns.

    Raises BadInput for a file that holds no object, what `change` and `attempt` raise, Unavailable (`busy`) when
    somebody else holds the lock for too long, LimitReached (`storage_full`). The file is then as it was.
    """
    path = Path(os.path.realpath(path))  # a link into a directory of dotfiles stays one
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.with_name(path.name + ".lock"), clock):
            tree = read_json(path) if path.exists() else {}
            change(tree)
            result = attempt(tree)
            _replace(path, tree)
            return result
    except OSError as error:
        if error.errno in _FULL:
            raise LimitReached(f"cannot write {path}: the disk is full", code="storage_full") from None
        raise Unavailable(f"cannot write {path}: {error.strerror}", code="storage_failed", retryable=False) from None


@contextlib.contextmanager
def _locked(path: Path, clock: Clock) -> Iterator[None]:
    # The file stays: whoever removes a lock file may remove the one that another just locked.
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
                    raise Unavailable(
                        f"cannot change the configuration: another process holds {path} for {LOCK_S:g} s",
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
        raise BadInput(f"cannot write this into {path}: {error}") from None
    if len(data) > FILE_MAX_BYTES:
        raise BadInput(f"cannot write {path}: it would be larger than {FILE_MAX_BYTES} bytes", code="too_large")
    replace_file(path, data, sync=True, sync_directory=True)


# --- trees --------------------------------------------------------------------------------------------------------


def names_of(key: str) -> list[str]:
    """The names of a dotted path; `\\.` is a dot inside a name. Raises BadInput."""
    found = _NAME.findall(key)
    names = [re.sub(r"\\(.)", r"\1", name) for name in found]
    if ".".join(found) != key or not names:
        raise BadInput(f"cannot use the key {key[:200]!r}: it must be names with dots between them")
    return names


def set_key(tree: Object, names: Sequence[str], value: object) -> None:
    """Put `value` there; objects on the way are made. Raises BadInput where something else stands in the way."""
    *above, last = names
    for depth, name in enumerate(above):
        below = tree.setdefault(name, {})
        if below is None:
            below = tree[name] = {}
        if not isinstance(below, dict):
            path = ".".join(names[: depth + 1])
            raise BadInput(f"cannot set {'.'.join(names)}: {path} is not an object but a {type(below).__name__}")
        tree = below
    tree[last] = value


def literal(text: str) -> str:
    """`text` as a template that means itself: a key in a file is one."""
    return text.translate(_TEMPLATE_SIGNS)


def remove_key(tree: Object, names: Sequence[str]) -> None:
    """Take it away; nothing happens when it is not there."""
    *above, last = names
    for name in above:
        below = tree.get(name)
        if not isinstance(below, dict):
            return
        tree = below
    tree.pop(last, None)


def remember_model(tree: Object, model_type: str, model: Object) -> None:
    """Move a model to the front of the recent ones of its type, which are at most five."""
    recent = tree.get("recent_models")
    known = recent.get(model_type) if isinstance(recent, dict) else None
    others = [
        item
        for item in (known if isinstance(known, list) else [])
        if isinstance(item, dict) and (item.get("provider"), item.get("model")) != (model["provider"], model["model"])
    ]
    set_key(tree, ["recent_models", model_type], [model, *others][:RECENT_MAX])
