"""Which configuration files count, from the lowest priority to the highest, and reading and merging them.

In every directory `crush.json` < `.crush.json` < `bulkhead.json` < `.bulkhead.json`. Two files are the program's own
(`edit.py` writes them): the state file of the user, below what a project says, and the one in the data directory,
above all. Everything here blocks: it is called before the loop starts or in a thread.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from protocol.api.config_report import FileStatus
from protocol.errors import BadInput

FILE_MAX_BYTES = 4 * 1024 * 1024
DEPTH_MAX = 100
"""Levels of objects and lists; what is read recursively later stays far from the interpreter's own bound."""

INTEGER_BITS_MAX = 64
TWICE_SHOWN = 5  # keys that a warning names
PROJECT_FILES = ("crush.json", ".crush.json", "bulkhead.json", ".bulkhead.json")
SCRIPTS = ("crushrc", ".crushrc", "bulkheadrc", ".bulkheadrc")
SYSTEM_DIR = Path("/etc")

Object = dict[str, object]


@dataclass(frozen=True, slots=True)
class Layer:
    """The object of one file, and its text; None for one that is not written yet."""

    path: Path
    tree: Object
    text: str | None


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of one file that may count. `problem` says why it is not used, or what is odd in one that is."""

    path: Path
    status: FileStatus
    problem: str = ""
    layer: Layer | None = None


@dataclass(frozen=True, slots=True)
class Layers:
    """The merged configuration and where it came from."""

    merged: Object
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are used, lowest first."""
        return tuple(layer.path for layer in self.layers)


def read_layers(
    workspace: Path, data_dir: Path, env: Mapping[str, str], unwritten: Mapping[Path, Object] | None = None
) -> Layers:
    """Read and merge every file that exists. Raises BadInput naming file, line and column of what is not JSON.

    `unwritten` are contents that count instead of those of the files: how a change would turn out.
    """
    warnings: list[str] = []
    layers: list[Layer] = []
    for looked in look(workspace, data_dir, env, unwritten):
        if looked.status == "broken":
            raise BadInput(looked.problem)
        if looked.problem:
            warnings.append(looked.problem)
        if looked.layer is not None:
            layers.append(looked.layer)
    return merged_layers(layers, warnings)


def merged_layers(layers: list[Layer], warnings: list[str]) -> Layers:
    """The layers merged, lowest first."""
    merged: Object = {}
    for layer in layers:
        merged = merge(merged, layer.tree)
    return Layers(merged, tuple(layers), tuple(warnings))


def look(
    workspace: Path, data_dir: Path, env: Mapping[str, str], unwritten: Mapping[Path, Object] | None = None
) -> Iterator[Looked]:
    """Every file that may count, lowest first, read. Scripts are only named when they exist.

    A file that is reached by several names, by links, counts once, at the highest of its places: its lists would be
    joined with themselves.
    """
    candidates = [
        (path, os.path.realpath(path), must_be_ours) for path, must_be_ours in _candidates(workspace, data_dir, env)
    ]
    last = {real: place for place, (_, real, _) in enumerate(candidates)}
    contents = {os.path.realpath(path): tree for path, tree in (unwritten or {}).items()}
    for place, (path, real, must_be_ours) in enumerate(candidates):
        is_last = last[real] == place
        if real in contents and is_last:
            tree = contents[real]
            try:
                _check(tree)
            except ValueError as error:
                yield Looked(path, "broken", f"cannot use {path}: {error}")
            else:
                yield Looked(path, "used", layer=Layer(path, tree, None))
            continue
        try:
            status = path.stat()
        except OSError:
            if path.name not in SCRIPTS:
                yield Looked(path, "missing")
            continue
        if not is_last:
            yield Looked(path, "not read")
        elif must_be_ours and status.st_uid != os.getuid():
            yield Looked(path, "not ours", f"{path} is not used: it belongs to another user")
        elif path.name in SCRIPTS:
            yield Looked(path, "not read", f"{path} is not read: scripts are not run here; write bulkhead.json")
        else:
            yield _read(path)


def _read(path: Path) -> Looked:
    try:
        text = read_text(path)
        tree, twice = _parsed(path, text)
    except BadInput as error:
        return Looked(path, "broken", error.message)
    if not tree:
        return Looked(path, "empty")
    names = ", ".join(json.dumps(name[:100], ensure_ascii=False) for name in twice[:TWICE_SHOWN])
    problem = f"{path}: {names} stands twice in one object; only the last of them counts" if twice else ""
    return Looked(path, "used", problem, Layer(path, tree, text))


def _candidates(workspace: Path, data_dir: Path, env: Mapping[str, str]) -> list[tuple[Path, bool]]:
    """Each path once, at its highest place, and whether the file must be of this user."""
    home = Path(env.get("HOME") or "/nonexistent")
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    data = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    state = state_file(env)
    crush = Path(env.get("CRUSH_GLOBAL_CONFIG") or config / "crush")
    own = Path(env.get("CONFIGURATION_DIRECTORY") or config / "bulkhead")
    found = [SYSTEM_DIR / "crush" / "crush.json", SYSTEM_DIR / "bulkhead" / "bulkhead.json"]
    found += [crush / "crush.json", crush / "crushrc", own / "bulkhead.json", own / "bulkheadrc"]
    found += [Path(env.get("CRUSH_GLOBAL_DATA") or data / "crush") / "crush.json", *([state] if state else [])]
    candidates = [(path, False) for path in found]
    for directory in project_dirs(workspace):
        candidates += [(directory / name, True) for name in (*PROJECT_FILES, *SCRIPTS)]
    candidates += [(data_dir / name, True) for name in ("crush.json", "bulkhead.json")]
    last = {path: place for place, (path, _) in enumerate(candidates)}
    return [candidate for place, candidate in enumerate(candidates) if last[candidate[0]] == place]


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
        if os.path.exists(directory / ".git"):
            return list(reversed(dirs))
    return [workspace]


def read_json(path: Path) -> Object:
    """The object in a file; empty for an empty file. Raises BadInput."""
    return parse(path, read_text(path))


def read_text(path: Path) -> str:
    """The text of a file without a byte order mark. Raises BadInput."""
    try:
        # Not blocking: a pipe of that name would never answer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISCHR(status.st_mode) and os.path.samestat(status, os.stat(os.devnull)):
                return ""
            if not stat.S_ISREG(status.st_mode):
                raise BadInput(f"cannot read {path}: it is not a file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(FILE_MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    if len(data) > FILE_MAX_BYTES:
        raise BadInput(f"cannot read {path}: it is larger than {FILE_MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read {path}: byte {error.start} is not UTF-8") from None


def parse(path: Path, text: str) -> Object:
    """The object that `text`, the content of `path`, is; empty for no text. Raises BadInput."""
    return _parsed(path, text)[0]


def _parsed(path: Path, text: str) -> tuple[Object, list[str]]:
    """The same, and the keys that stand twice in one object. Raises BadInput."""
    twice: list[str] = []

    def made(pairs: list[tuple[str, object]]) -> Object:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return found

    if not text.strip():
        return {}, []
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=made)
        _check(value)
    except json.JSONDecodeError as error:
        raise BadInput(f"cannot read {path}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise BadInput(f"cannot read {path}: it is nested too deeply") from None
    except ValueError as error:
        raise BadInput(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"cannot use {path}: it must hold one JSON object")
    return value, twice


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _check(value: object) -> None:
    """Raise ValueError for what Python reads and others cannot: answers to clients must hold it."""
    level = [value]
    for _ in range(DEPTH_MAX):
        below: list[object] = []
        for item in level:
            match item:
                case dict():
                    below += item
                    below += item.values()
                case list():
                    below += item
                case str():
                    _check_text(item)
                case int() if item.bit_length() >= INTEGER_BITS_MAX:
                    raise ValueError("a number in it is too large")
                case _:
                    pass
        if not below:
            return
        level = below
    raise ValueError(f"it is nested too deeply: more than {DEPTH_MAX} levels")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"\\u{ord(text[error.start]):04x} is half of a character") from None


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
