"""Find, read and merge the configuration files of a workspace, from the lowest priority to the highest.

In every directory `crush.json` < `.crush.json` < `bulkhead.json` < `.bulkhead.json`. Two files are written by the
program itself (`edit.py`): the user's state file, which has a lower priority than a project's files, and the file in
the data directory, which has the highest. Everything here blocks: call it before the loop starts or in a thread.
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
"""Maximum nesting of objects and lists, so that recursive functions stay far below the interpreter's limit."""

INTEGER_BITS_MAX = 64
TICK_S = 0.05
"""Longer than the tick of the clock that file systems take their times from (4 to 10 ms on Linux, 1/100 s at most)."""
DUPLICATES_SHOWN = 5  # duplicate keys that a warning names
PROJECT_FILES = ("crush.json", ".crush.json", "bulkhead.json", ".bulkhead.json")
SCRIPTS = ("crushrc", ".crushrc", "bulkheadrc", ".bulkheadrc")
SYSTEM_DIR = Path("/etc")

Object = dict[str, object]


@dataclass(frozen=True, slots=True)
class Layer:
    """The object of one file, and the text of the file; None if the object is not written yet."""

    path: Path
    tree: Object
    text: str | None


@dataclass(frozen=True, slots=True)
class ExaminedFile:
    """A possible configuration file. `problem` says why it is not used, or is a warning about a file that is used."""

    path: Path
    status: FileStatus
    problem: str = ""
    layer: Layer | None = None


@dataclass(frozen=True, slots=True)
class Layers:
    """The merged configuration and the files that it comes from, lowest priority first."""

    merged: Object
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are used, lowest priority first."""
        return tuple(layer.path for layer in self.layers)


@dataclass(frozen=True, slots=True)
class FilesState:
    """What tells one state of the configuration files from another: of each possible file its identity, size and times.

    The time of the last change of status (ctime) moves with every write and every rename, and no program sets it.
    """

    files: tuple[tuple[str, int, int, int, int, int], ...]

    def is_settled(self, now_s: float) -> bool:
        """Return whether a later write must show in a later state: file systems count time in ticks, so two writes
        within one tick look like one. `now_s` is the wall time before the state was read."""
        newest_ns = max((changed_ns for *_, changed_ns in self.files), default=0)
        return newest_ns < (now_s - TICK_S) * 1e9


def files_state(workspace: Path, data_dir: Path, env: Mapping[str, str]) -> FilesState:
    """Return the state of the files that `read_layers` would read. Blocks."""
    states = []
    for path, _ in _candidates(workspace, data_dir, env):
        try:
            status = os.stat(path)
        except OSError:
            continue
        times = (status.st_mtime_ns, status.st_ctime_ns)
        states.append((str(path), status.st_dev, status.st_ino, status.st_size, *times))
    return FilesState(tuple(states))


def read_layers(
    workspace: Path, data_dir: Path, env: Mapping[str, str], unwritten: Mapping[Path, Object] | None = None
) -> Layers:
    """Read and merge all files. Raises BadInput with the file, line and column of invalid JSON.

    `unwritten` replaces the contents of files, to try a change before it is written.
    """
    warnings: list[str] = []
    layers: list[Layer] = []
    for file in examine_files(workspace, data_dir, env, unwritten):
        if file.status == "broken":
            raise BadInput(file.problem)
        if file.problem:
            warnings.append(file.problem)
        if file.layer is not None:
            layers.append(file.layer)
    return merged_layers(layers, warnings)


def merged_layers(layers: list[Layer], warnings: list[str]) -> Layers:
    """Merge layers, given with the lowest priority first."""
    merged: Object = {}
    for layer in layers:
        merged = merge(merged, layer.tree)
    return Layers(merged, tuple(layers), tuple(warnings))


def examine_files(
    workspace: Path, data_dir: Path, env: Mapping[str, str], unwritten: Mapping[Path, Object] | None = None
) -> Iterator[ExaminedFile]:
    """Read every possible configuration file, lowest priority first. Scripts are only included if they exist.

    A file with several names, through links, is used once, at its highest priority: otherwise its lists would be
    joined with themselves.
    """
    candidates = [
        (path, os.path.realpath(path), must_be_own) for path, must_be_own in _candidates(workspace, data_dir, env)
    ]
    last_index = {real: index for index, (_, real, _) in enumerate(candidates)}
    contents = {os.path.realpath(path): tree for path, tree in (unwritten or {}).items()}
    for index, (path, real, must_be_own) in enumerate(candidates):
        is_last = last_index[real] == index
        if real in contents and is_last:
            tree = contents[real]
            try:
                _check(tree)
            except ValueError as error:
                yield ExaminedFile(path, "broken", f"cannot use {path}: {error}")
            else:
                yield ExaminedFile(path, "used", layer=Layer(path, tree, None))
            continue
        try:
            status = path.stat()
        except OSError:
            if path.name not in SCRIPTS:
                yield ExaminedFile(path, "missing")
            continue
        if not is_last:
            yield ExaminedFile(path, "not read")
        elif must_be_own and status.st_uid != os.getuid():
            yield ExaminedFile(path, "not ours", f"{path} is not used: it belongs to another user")
        elif path.name in SCRIPTS:
            problem = f"{path} is not read: scripts are not supported; write the settings to bulkhead.json"
            yield ExaminedFile(path, "not read", problem)
        else:
            yield _read(path)


def _read(path: Path) -> ExaminedFile:
    try:
        text = read_text(path)
        tree, duplicates = _parsed(path, text)
    except BadInput as error:
        return ExaminedFile(path, "broken", error.message)
    if not tree:
        return ExaminedFile(path, "empty")
    names = ", ".join(json.dumps(name[:100], ensure_ascii=False) for name in duplicates[:DUPLICATES_SHOWN])
    problem = f"{path}: duplicate keys in one object: {names}; the last value of each is used" if duplicates else ""
    return ExaminedFile(path, "used", problem, Layer(path, tree, text))


def _candidates(workspace: Path, data_dir: Path, env: Mapping[str, str]) -> list[tuple[Path, bool]]:
    """Return each path once, at its highest priority, and whether the file must belong to the current user."""
    home = Path(env.get("HOME") or "/nonexistent")
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    data = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    state = state_file(env)
    crush = Path(env.get("CRUSH_GLOBAL_CONFIG") or config / "crush")
    own = Path(env.get("CONFIGURATION_DIRECTORY") or config / "bulkhead")
    paths = [SYSTEM_DIR / "crush" / "crush.json", SYSTEM_DIR / "bulkhead" / "bulkhead.json"]
    paths += [crush / "crush.json", crush / "crushrc", own / "bulkhead.json", own / "bulkheadrc"]
    paths += [Path(env.get("CRUSH_GLOBAL_DATA") or data / "crush") / "crush.json", *([state] if state else [])]
    candidates = [(path, False) for path in paths]
    for directory in project_dirs(workspace):
        candidates += [(directory / name, True) for name in (*PROJECT_FILES, *SCRIPTS)]
    candidates += [(data_dir / name, True) for name in ("crush.json", "bulkhead.json")]
    last_index = {path: index for index, (path, _) in enumerate(candidates)}
    return [candidate for index, candidate in enumerate(candidates) if last_index[candidate[0]] == index]


def state_file(env: Mapping[str, str]) -> Path | None:
    """Return the file with the user's choices for all workspaces; None if neither HOME nor XDG_DATA_HOME is set."""
    if data := env.get("XDG_DATA_HOME"):
        return Path(data) / "bulkhead" / "bulkhead.json"
    home = env.get("HOME")
    return Path(home) / ".local" / "share" / "bulkhead" / "bulkhead.json" if home else None


def project_dirs(workspace: Path) -> list[Path]:
    """Return the directories from the root of the git worktree down to `workspace`, or just that outside of git."""
    dirs: list[Path] = []
    for directory in (workspace, *workspace.parents):
        dirs.append(directory)
        if os.path.exists(directory / ".git"):
            return list(reversed(dirs))
    return [workspace]


def read_json(path: Path) -> Object:
    """Return the object in a file, {} for an empty file. Raises BadInput."""
    return parse(path, read_text(path))


def read_text(path: Path) -> str:
    """Return the text of a file without a byte order mark. Raises BadInput."""
    try:
        # Non-blocking: opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISCHR(status.st_mode) and os.path.samestat(status, os.stat(os.devnull)):
                return ""
            if not stat.S_ISREG(status.st_mode):
                raise BadInput(f"cannot read {path}: it is not a regular file")
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
    """Return the object in `text`, the content of `path`; {} for an empty text. Raises BadInput."""
    return _parsed(path, text)[0]


def _parsed(path: Path, text: str) -> tuple[Object, list[str]]:
    """Return the object in `text`, and its duplicate keys. Raises BadInput."""
    duplicates: list[str] = []

    def build(pairs: list[tuple[str, object]]) -> Object:
        built = dict(pairs)
        if len(built) < len(pairs):
            duplicates.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return built

    if not text.strip():
        return {}, []
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=build)
        _check(value)
    except json.JSONDecodeError as error:
        raise BadInput(f"cannot read {path}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise BadInput(f"cannot read {path}: it is nested too deeply") from None
    except ValueError as error:
        raise BadInput(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"cannot use {path}: its content must be one JSON object, {{…}}")
    return value, duplicates


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not valid JSON; use a number, a string or null")


def _check(value: object) -> None:
    """Raise ValueError for values that Python accepts but other JSON parsers do not: clients receive them."""
    level = [value]
    for _ in range(DEPTH_MAX):
        children: list[object] = []
        for item in level:
            match item:
                case dict():
                    children += item
                    children += item.values()
                case list():
                    children += item
                case str():
                    _check_text(item)
                case int() if item.bit_length() >= INTEGER_BITS_MAX:
                    raise ValueError(f"an integer in it is too large; integers must fit into {INTEGER_BITS_MAX} bits")
                case _:
                    pass
        if not children:
            return
        level = children
    raise ValueError(f"it is nested too deeply: at most {DEPTH_MAX} levels are allowed")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"\\u{ord(text[error.start]):04x} is half of a surrogate pair") from None


def merge(base: Object, override: Object) -> Object:
    """Merge two objects: objects recursively, lists joined, other values replaced; a null keeps the base value."""
    merged = dict(base)
    for key, value in override.items():
        current = merged.get(key)
        if value is None:
            continue
        if isinstance(value, dict):
            merged[key] = merge(current if isinstance(current, dict) else {}, value)
        elif isinstance(value, list) and isinstance(current, list):
            merged[key] = current + value
        else:
            merged[key] = value
    return merged
