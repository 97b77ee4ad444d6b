"""Confine commands of tools with Landlock when `tools.confine` says so (X09, X10, T07).

They may write in the workspace, in temporary directories, in the caches of package managers and in `tools.writable`.
They may read everything but the server's own files: runtime and state directory, data of other workspaces. They cannot
signal processes outside or read their memory. Off by default: a command that installs something writes elsewhere.
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
from worker.config.load import WorkspaceConfig
from worker.config.schema import ToolSettings
from worker.processes.landlock import ABI_MIN, CHANGE, READ, Ruleset, abi
from worker.toolkit.extension import Extension
from worker.toolkit.tool import ToolError

CACHES = (
    *(".cache", ".npm", ".yarn", ".cargo/registry", ".cargo/git", "go/pkg", ".gradle/caches", ".m2/repository"),
    *(".local/share/pnpm", ".bun/install/cache", ".nuget/packages"),
)
"""Below the home directory: what builds keep from one to the next. No directory with programs is among them."""
DEVICES_DIR = Path("/dev")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm")
STEPS_MAX = 200  # of one path, links included
ENTRIES_MAX = 4096
"""Rules for one command; each takes a few microseconds."""

OPERATOR_MODE = "BULKHEAD_CONFINE"
"""Variable of the server's environment that overrides the files, because a command may write those of its project."""
OPERATOR_WRITABLE = "BULKHEAD_WRITABLE"
MODES = ("off", "auto", "required")

REMEDY = "set tools.confine to auto or off, or use a kernel with Landlock (Linux 6.2 or later)"


@dataclass(frozen=True)
class SandboxPaths:
    """Resolved paths. `temporary` replaces the system's temporary directory when that contains a closed one."""

    writable: tuple[Path, ...]
    closed: tuple[Path, ...]
    temporary: Path | None = None


class SandboxPolicy(Extension):
    """Decide whether the commands of one worker are confined, and make their rules."""

    def __init__(
        self,
        workspace: Path,
        data_dir: Path,
        closed: Sequence[str],
        log: logging.Logger,
        *,
        operator: Mapping[str, str] | None = None,
    ) -> None:
        """`closed` are directories of the server that no command may read; `operator` is the server's environment."""
        self._workspace = workspace
        self._data_dir = data_dir
        self._closed = tuple(closed)
        self._log = log
        self._operator = operator or {}
        self._settings = ToolSettings()
        self._env: Mapping[str, str] = {}
        self._problem = ""

    def configure(self, config: WorkspaceConfig, env: Mapping[str, str]) -> None:
        """Apply `tools.confine` and `tools.writable`."""
        self._settings = config.tools
        self._env = env

    @property
    def mode(self) -> str:
        """Return `off`, `auto` or `required`. Any other value of the operator's variable means the strictest."""
        mode = self._operator.get(OPERATOR_MODE, "")
        if not mode:
            return self._settings.confine
        return mode if mode in MODES else "required"

    @property
    def _writable(self) -> Sequence[str]:
        if self._operator.get(OPERATOR_MODE):
            return [path for path in self._operator.get(OPERATOR_WRITABLE, "").split(":") if path]
        return self._settings.writable

    def notes(self) -> Sequence[str]:
        """Tell the model, so that it does not try what cannot work."""
        if self.mode == "off" or self._problem:
            return ()
        return (
            "Commands are confined: they may write only in the workspace, in $TMPDIR and in caches of package "
            "managers, and may signal only their own processes. `Permission denied` elsewhere is intended.",
        )

    def make_sandbox(self) -> "Sandbox | None":
        """Make the rules for one command, to be closed by the caller; None for no confinement. Blocks: for threads.

        Raises ToolError when confinement is required and not possible.
        """
        mode = self.mode
        if mode == "off":
            return None
        try:
            failpoint_blocking("tools.confine")
            version = abi()
            if version < ABI_MIN:
                raise OSError(0, f"this kernel has version {version} of Landlock; {ABI_MIN} is needed")
        except OSError as error:
            reason = error.strerror or str(error)
            if mode == "required":
                raise ToolError(f"cannot run: commands must be confined, and cannot be: {reason}; {REMEDY}") from error
            if self._problem != reason:
                self._problem = reason
                self._log.warning(f"commands are not confined: {reason}")
            return None
        self._problem = ""
        try:
            return Sandbox(self._paths(), version)
        except OSError as error:  # caused by the files and not by the kernel, so that `auto` must not run it unconfined
            raise ToolError(f"cannot run: the rules for a confined command cannot be made: {error}") from error

    def _paths(self) -> SandboxPaths:
        # Where the operator decides, the project's variables are ignored too.
        env = self._operator if self._operator.get(OPERATOR_MODE) else self._env
        return sandbox_paths(self._workspace, self._data_dir, self._closed, env=env, extra=self._writable)


class Sandbox:
    """The rules for one command: `ruleset` for the kernel, `environment` for the command."""

    def __init__(self, paths: SandboxPaths, version: int) -> None:
        """Raises OSError."""
        self.environment: dict[str, str] = {}
        if paths.temporary is not None:
            _make_directory(paths.temporary)
            self.environment = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(paths.temporary))
        self.ruleset = Ruleset(version)
        try:
            self.ruleset.allow(READ, all_except(paths.closed, paths.writable))
            self.ruleset.allow(CHANGE, paths.writable)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the rules, after the command was started or failed to start."""
        self.ruleset.close()


def sandbox_paths(
    workspace: Path,
    data_dir: Path,
    closed: Sequence[str],
    *,
    env: Mapping[str, str],
    extra: Sequence[str] = (),
) -> SandboxPaths:
    """Choose where a command may write. Left out is what contains a closed directory or is in one."""
    root = _real(workspace)
    barred = tuple(path for path in map(_real, closed) if not root.is_relative_to(path))
    home = env.get("HOME", "")
    temporary = Path(env.get("TMPDIR") or tempfile.gettempdir())
    candidates = [temporary, Path("/tmp"), Path("/var/tmp")]
    candidates += [Path(home) / name for name in CACHES] if home else []
    candidates += [Path(env["XDG_CACHE_HOME"])] if env.get("XDG_CACHE_HOME") else []
    candidates += [Path(home + name[1:]) if home and name.startswith("~/") else root / name for name in extra]
    candidates = [Path(os.path.normpath(path)) for path in candidates]
    allowed = {path for path in map(_real, candidates) if not any(_overlap(path, other) for other in barred)}
    # A command may have put a link into a path: what it can change itself must not decide where it may write.
    writable = [root]
    for path in candidates:
        real = _real(path)
        if real in allowed and _is_stable(path, (allowed | {root}) - {real}) and real not in writable:
            writable.append(real)
    own = None
    if not any(_real(temporary).is_relative_to(path) for path in writable):
        if data_dir.is_relative_to(root):
            own = data_dir / "tmp"  # not resolved: a command may have made it a link
        else:
            own = _real(data_dir) / "tmp"
            writable.append(own)
    return SandboxPaths((*writable, *(DEVICES_DIR / name for name in DEVICES)), barred, own)


def all_except(closed: Sequence[Path], writable: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield paths that cover everything but `closed`, because rules can only allow. Raises OSError for too many.

    Writable directories may be read anyway and are not listed: commands change them meanwhile.
    """
    parents = {parent for path in closed for parent in path.parents}
    waiting, count = [Path("/")], 0
    if not parents:
        yield from waiting
        return
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as listing:
                entries = [Path(entry.path) for entry in listing if not entry.is_symlink()]
        except OSError:  # a command cannot list it either
            continue
        for path in entries:
            if path in parents:
                if not any(path.is_relative_to(root) for root in writable):
                    waiting.append(path)
            elif path not in closed:
                count += 1
                if count > ENTRIES_MAX:
                    raise OSError(0, f"there are more than {ENTRIES_MAX} files beside those of the server")
                yield path


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _make_directory(directory: Path) -> None:
    """Create it unless it exists. Raises OSError, also for a link in its place."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    if not stat.S_ISDIR(directory.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it must be a directory", str(directory))


def _is_stable(path: Path, changeable: Collection[Path]) -> bool:
    """Return whether no directory on the path, links included, is one that a command can change."""
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
