"""Where commands of tools may write and what they may not read, when `tools.confine` wants that (X09, X10, T07).

They write in the workspace, in temporary directories, in the caches of package managers and where `tools.writable`
says; they read everything but what is ours: runtime and state directory, files of other workspaces. Signals and memory
of processes outside are closed to them. Off by default: a command that installs something wants to write elsewhere.
"""

import contextlib
import errno
import logging
import os
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.base.failpoints import failpoint_blocking
from worker.config.load import Config
from worker.config.schema import ToolSettings
from worker.processes.landlock import ABI_MIN, CHANGE, READ, Ruleset, abi
from worker.toolkit.extension import Service
from worker.toolkit.tool import ToolError

CACHES = (
    *(".cache", ".npm", ".yarn", ".cargo/registry", ".cargo/git", "go/pkg", ".gradle/caches", ".m2/repository"),
    *(".local/share/pnpm", ".bun/install/cache", ".nuget/packages"),
)
"""Below the home directory: what builds keep between them. Programs that are on the PATH are not among it."""
DEVICES_DIR = Path("/dev")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm")
STEPS_MAX = 200
ENTRIES_MAX = 4096
"""Rules for one command; making them takes a few microseconds each."""

OPERATOR = "BULKHEAD_CONFINE"
"""Set where the server starts, it counts instead of the files: a command may write those of its project."""
OPERATOR_WRITABLE = "BULKHEAD_WRITABLE"
MODES = ("off", "auto", "required")

HOW = "set tools.confine to auto or off, or use a kernel with Landlock (Linux 6.2 or later)"


@dataclass(frozen=True)
class Places:
    """Resolved paths. `temporary` stands for the system's directory when that holds something of ours."""

    writable: tuple[Path, ...]
    closed: tuple[Path, ...]
    temporary: Path | None = None


class Confinement(Service):
    """Makes the rules for the commands of one worker."""

    def __init__(
        self,
        workspace: Path,
        data_dir: Path,
        closed: Sequence[str],
        log: logging.Logger,
        *,
        operator: Mapping[str, str] | None = None,
    ) -> None:
        """`closed` are directories of ours that no command may read; `operator` is the server's environment."""
        self._workspace = workspace
        self._data_dir = data_dir
        self._closed = tuple(closed)
        self._log = log
        self._operator = operator or {}
        self._settings = ToolSettings()
        self._env: Mapping[str, str] = {}
        self._told = ""

    def configure(self, config: Config, env: Mapping[str, str]) -> None:
        """Take over `tools.confine` and `tools.writable`."""
        self._settings = config.tools
        self._env = env

    @property
    def mode(self) -> str:
        """`off`, `auto` or `required`. A word of the operator that is none of them means the strictest."""
        word = self._operator.get(OPERATOR, "")
        if not word:
            return self._settings.confine
        return word if word in MODES else "required"

    @property
    def _writable(self) -> Sequence[str]:
        if self._operator.get(OPERATOR):
            return [path for path in self._operator.get(OPERATOR_WRITABLE, "").split(":") if path]
        return self._settings.writable

    def notes(self) -> Sequence[str]:
        """So that the model does not try in vain."""
        if self.mode == "off" or self._told:
            return ()
        return (
            "Commands are confined: they may write only in the workspace, in $TMPDIR and in caches of package "
            "managers, and may signal only their own processes. `Permission denied` elsewhere is meant so.",
        )

    def enter(self) -> "Cage | None":
        """The rules for one command, to be closed by the caller; None for no confinement. Blocks: for threads.

        Raises ToolError when confinement is required and cannot be had.
        """
        wanted = self.mode
        if wanted == "off":
            return None
        try:
            failpoint_blocking("tools.confine")
            version = abi()
            if version < ABI_MIN:
                raise OSError(0, f"this kernel knows version {version} of Landlock; {ABI_MIN} is needed")
        except OSError as error:
            why = error.strerror or str(error)
            if wanted == "required":
                raise ToolError(f"cannot run: commands must be confined, and cannot be: {why}; {HOW}") from error
            if self._told != why:
                self._told = why
                self._log.warning(f"commands are not confined: {why}")
            return None
        self._told = ""
        try:
            return Cage(self._places(), version)
        except OSError as error:  # not what the kernel lacks, but what somebody made of the files: no way out
            raise ToolError(f"cannot run: the rules for a confined command cannot be made: {error}") from error

    def _places(self) -> Places:
        # What the project says of variables does not count either where the operator decides.
        env = self._operator if self._operator.get(OPERATOR) else self._env
        return places(self._workspace, self._data_dir, self._closed, env=env, also=self._writable)


class Cage:
    """The rules for one command: `ruleset` for the kernel, `environment` for the command."""

    def __init__(self, rules: Places, version: int) -> None:
        """Raises OSError."""
        self.environment: dict[str, str] = {}
        if rules.temporary is not None:
            _make_own(rules.temporary)
            self.environment = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(rules.temporary))
        self.ruleset = Ruleset(version)
        try:
            self.ruleset.allow(READ, beside(rules.closed, rules.writable))
            self.ruleset.allow(CHANGE, rules.writable)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """The command was started, or will not be."""
        self.ruleset.close()


def places(
    workspace: Path,
    data_dir: Path,
    closed: Sequence[str],
    *,
    env: Mapping[str, str],
    also: Sequence[str] = (),
) -> Places:
    """Where a command may write. Of the directories that everybody uses, none that holds something closed."""
    root = _real(workspace)
    ours = tuple(path for path in map(_real, closed) if not root.is_relative_to(path))
    home = env.get("HOME", "")
    temporary = Path(env.get("TMPDIR") or tempfile.gettempdir())
    wanted = [temporary, Path("/tmp"), Path("/var/tmp")]
    wanted += [Path(home) / name for name in CACHES] if home else []
    wanted += [Path(env["XDG_CACHE_HOME"])] if env.get("XDG_CACHE_HOME") else []
    wanted += [Path(home + name[1:]) if home and name.startswith("~/") else root / name for name in also]
    wanted = [Path(os.path.normpath(path)) for path in wanted]
    free = {path for path in map(_real, wanted) if not any(_overlap(path, other) for other in ours)}
    # A command may have put a link in the way: what it can change itself must not decide where it may write.
    steady = [path for path in wanted if _real(path) in free and _is_steady(path, (free | {root}) - {_real(path)})]
    writable = list(dict.fromkeys([root, *map(_real, steady)]))
    own = None
    if not any(_real(temporary).is_relative_to(path) for path in writable):
        if data_dir.is_relative_to(root):
            own = data_dir / "tmp"  # it may be a link by now, so it is not looked up
        else:
            own = _real(data_dir) / "tmp"
            writable.append(own)
    return Places((*writable, *(DEVICES_DIR / name for name in DEVICES)), ours, own)


def beside(closed: Sequence[Path], writable: Sequence[Path] = ()) -> Iterator[Path]:
    """Everything that is not closed, as few directories as possible: the kernel knows only what is allowed.

    What is writable may be read anyway, and is not looked into: commands change it meanwhile. Raises OSError when that
    would be too many.
    """
    way = {parent for path in closed for parent in path.parents}
    waiting, count = [Path("/")], 0
    if not way:
        yield from waiting
        return
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as found:
                entries = [Path(entry.path) for entry in found if not entry.is_symlink()]
        except OSError:  # then a command cannot look into it either
            continue
        for path in entries:
            if path in way:
                if not any(path.is_relative_to(root) for root in writable):
                    waiting.append(path)
            elif path not in closed:
                count += 1
                if count > ENTRIES_MAX:
                    raise OSError(0, f"there are more than {ENTRIES_MAX} files beside those of the server")
                yield path


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _make_own(directory: Path) -> None:
    """Make it if it is not there; a link in its place is none. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    if not stat.S_ISDIR(directory.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it must be a directory", str(directory))


def _is_steady(path: Path, changeable: Collection[Path]) -> bool:
    """Does the way to `path`, links included, lead through no directory that a command can change?"""
    at, rest = Path("/"), [*path.parts[1:]]
    for _ in range(STEPS_MAX):
        if not rest:
            return True
        if any(at.is_relative_to(root) for root in changeable):
            return False
        part = rest.pop(0)
        step = at.parent if part == ".." else at / part
        try:
            target = Path(os.readlink(step))
        except OSError:  # no link
            at = step
            continue
        rest = [*(target.parts[1:] if target.is_absolute() else target.parts), *rest]
        at = Path("/") if target.is_absolute() else at
    return False


def _overlap(path: Path, other: Path) -> bool:
    return path.is_relative_to(other) or other.is_relative_to(path)
