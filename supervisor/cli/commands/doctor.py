"""`bulkhead doctor`: what this host offers, line by line, and what that means for the server."""

import ctypes
import json
import os
import platform
import resource
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import click

from protocol.errors import BulkheadError
from protocol.local_model import PACKAGES, is_installed
from protocol.version import BULKHEAD_VERSION
from supervisor.cli.common_options import Door, find_door, find_worker, json_option, perform, print_json, server_options
from supervisor.cli.terminal.formatting import paint, table

Status = Literal["ok", "warn", "missing"]
_COLOURS = {"ok": "green", "warn": "yellow", "missing": "red"}

KERNEL_MIN = (5, 10)
SQLITE_MIN = (3, 35, 0)
OPEN_FILES_MIN = 4096
PROCESSES_MIN = 512
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_VERSION_FLAG = 1
LANDLOCK_MIN = 3  # before it, files outside could be cut to nothing
LANDLOCK_SIGNALS = 6
CONFINE_NOT = "`tools.confine`: `auto` runs commands all the same, `required` runs none"
KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY")
CONFIG_NAMES = ("bulkhead.json", ".bulkhead.json", "crush.json", ".crush.json")


@dataclass(frozen=True, slots=True)
class Line:
    """One finding. `missing` means that the server cannot work as it should, `warn` that it does with less."""

    what: str
    status: Status
    found: str
    meaning: str


@click.command(epilog="\b\nExamples:\n  bulkhead doctor\n  bulkhead doctor --json | jq -r 'select(.status != \"ok\")'")
@json_option
@server_options
def doctor(as_json: bool, host: str | None, token_file: Path | None) -> None:
    """Say what this host offers, and what that means.

    Exit code 1 when something is missing that the server needs.
    """

    async def work() -> int:
        lines = [check() for check in CHECKS]
        door = find_door(host, token_file)
        lines += await _server(door)
        if as_json:
            for line in lines:
                print_json(asdict(line))
        else:
            _print(lines)
        return int(any(line.status == "missing" for line in lines))

    perform(work())


def _print(lines: list[Line]) -> None:
    rows = [[line.what, line.status, line.found, line.meaning] for line in lines]
    head, *body = table(["WHAT", "STATUS", "FOUND", "MEANING"], rows).split("\n")
    click.echo(paint(head, "bold", sys.stdout), color=True)
    for text, line in zip(body, lines, strict=True):
        # The word stands in a column of its own: replace it there, not in what was found.
        start = text.index(line.status, len(line.what))
        end = start + len(line.status)
        click.echo(text[:start] + paint(line.status, _COLOURS[line.status], sys.stdout) + text[end:], color=True)


def _python() -> Line:
    version = platform.python_version()
    fits = sys.version_info >= (3, 11)
    return Line("python", "ok" if fits else "missing", version, "3.11 or later is needed")


def _packages() -> Line:
    places = {}
    for name in ("supervisor", "worker", "protocol"):
        spec = find_spec(name)
        places[name] = Path(spec.origin).parent.parent if spec is not None and spec.origin else None
    if len(set(places.values())) == 1 and None not in places.values():
        return Line("packages", "ok", BULKHEAD_VERSION, "supervisor, worker and protocol lie side by side")
    return Line(
        "packages",
        "missing",
        ", ".join(f"{name} in {place}" for name, place in places.items()),
        "another distribution uses one of our names: install Bulkhead into an environment of its own",
    )


def _kernel() -> Line:
    release = platform.release()
    numbers = tuple(int(word) for word in release.split("-")[0].split(".")[:2] if word.isdigit())
    if sys.platform != "linux":
        return Line("kernel", "warn", f"{platform.system()} {release}", "only Linux is supported; the core may run")
    fits = numbers >= KERNEL_MIN
    return Line("kernel", "ok" if fits else "missing", release, "5.10 or later is needed")


def _pidfd() -> Line:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError) as error:
        return Line("pidfd", "missing", str(error), "workers cannot be watched without mistaking one for another")
    return Line("pidfd", "ok", "works", "the death of a worker is noticed at once, also after a restart")


def _landlock() -> Line:
    library = ctypes.CDLL(None, use_errno=True)
    version = library.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(LANDLOCK_VERSION_FLAG))
    if version < 1:
        reason = os.strerror(ctypes.get_errno())
        return Line("landlock", "warn", reason, CONFINE_NOT)
    if version < LANDLOCK_MIN:
        return Line("landlock", "warn", f"ABI {version}, {LANDLOCK_MIN} is needed", CONFINE_NOT)
    less = "" if version >= LANDLOCK_SIGNALS else "; they may signal other processes, for this kernel cannot hold that"
    mode = os.environ.get("BULKHEAD_CONFINE")
    where = f"BULKHEAD_CONFINE={mode} is set" if mode else "if `tools.confine` says so"
    return Line("landlock", "ok", f"ABI {version}", f"commands can be held in their workspace, {where}{less}")


def _cgroup() -> Line:
    less = "no limits of memory and processes for each worker; its tree is ended by other means"
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError as error:
        return Line("cgroup v2", "warn", str(error.strerror), less)
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        return Line("cgroup v2", "warn", "this host uses version 1", less)
    own = Path("/sys/fs/cgroup") / path.lstrip("/")
    try:
        controllers = (own / "cgroup.controllers").read_text().split()
    except OSError:
        return Line("cgroup v2", "warn", "not mounted here", less)
    if not os.access(own / "cgroup.procs", os.W_OK):
        return Line("cgroup v2", "warn", "not delegated to this user", f"{less}; the systemd units delegate one")
    wanted = {"memory", "pids"} & set(controllers)
    status: Status = "ok" if len(wanted) == 2 else "warn"
    return Line(
        "cgroup v2", status, f"writable, with {' '.join(controllers) or 'no controllers'}", "limits a worker's tree"
    )


def _sqlite() -> Line:
    fits = sqlite3.sqlite_version_info >= SQLITE_MIN
    return Line("sqlite", "ok" if fits else "missing", sqlite3.sqlite_version, "3.35 or later is needed")


def _open_files() -> Line:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    status: Status = "ok" if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES_MIN else "warn"
    return Line(
        "open files", status, f"{_limit(soft)} of {_limit(hard)}", "a client takes one, a worker a few; `ulimit -n`"
    )


def _processes() -> Line:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    status: Status = "ok" if soft == resource.RLIM_INFINITY or soft >= PROCESSES_MIN else "warn"
    return Line(
        "processes", status, f"{_limit(soft)} of {_limit(hard)}", "every workspace is one, tools are more; `ulimit -u`"
    )


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _runtime_dir() -> Line:
    fallback = f"/tmp/bulkhead-{os.getuid()}"
    text = os.environ.get("XDG_RUNTIME_DIR")
    if not text:
        return Line("XDG_RUNTIME_DIR", "warn", "not set", f"sockets are under {fallback} instead")
    try:
        found = Path(text).stat()
    except OSError as error:
        return Line("XDG_RUNTIME_DIR", "missing", f"{text}: {error.strerror}", "unset it, or let it name a directory")
    if found.st_uid != os.getuid():
        return Line(
            "XDG_RUNTIME_DIR", "missing", f"{text} belongs to user {found.st_uid}", "unset it, or name your own"
        )
    if stat.S_IMODE(found.st_mode) & 0o022:
        return Line("XDG_RUNTIME_DIR", "warn", f"{text} is writable for others", "`chmod 700` it")
    return Line("XDG_RUNTIME_DIR", "ok", text, "sockets are there, closed to other users")


def _model() -> Line:
    keys = [key for key in KEYS if os.environ.get(key)]
    files = [str(path) for path in _config_files() if _names_providers(path)]
    if keys or files:
        return Line("model", "ok", ", ".join(keys + files), "a server started from here can use it")
    who = "local/smollm2" if is_installed() else "the scripted model"
    return Line(
        "model",
        "warn",
        "no key, no provider",
        f"{who} answers; set ANTHROPIC_API_KEY or OPENAI_API_KEY where the server starts, or see README",
    )


def _local_model() -> Line:
    if not is_installed():
        return Line("local model", "ok", "not installed", "`make local-model` adds a very small one, for a first talk")
    found = find_spec(PACKAGES[1])
    place = Path(found.origin).parent if found is not None and found.origin else None
    if place is None or not any(place.glob("*.gguf")):
        return Line("local model", "missing", str(place), "its file is gone: `make local-model` brings it back")
    if os.environ.get("BULKHEAD_LOCAL_MODEL") == "0":
        return Line("local model", "ok", "switched off", "BULKHEAD_LOCAL_MODEL=0 is set")
    return Line("local model", "ok", "smollm2", "one process for all workspaces, started by the first prompt to it")


def _config_files() -> Iterator[Path]:
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for directory in (Path.cwd(), config / "bulkhead", config / "crush"):
        for name in CONFIG_NAMES:
            if (directory / name).is_file():
                yield directory / name


def _names_providers(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_bytes()).get("providers"))
    except (OSError, ValueError, AttributeError):
        return False


CHECKS: tuple[Callable[[], Line], ...] = (
    _python,
    _packages,
    _kernel,
    _pidfd,
    _landlock,
    _cgroup,
    _sqlite,
    _open_files,
    _processes,
    _runtime_dir,
    _model,
    _local_model,
)


async def _server(door: Door) -> list[Line]:
    """Is a server there, and which model answers in this directory?"""
    api = door.api()
    try:
        version = (await api.version()).version
    except BulkheadError as error:
        return [Line("server", "warn", str(door.address), error.message)]
    status: Status = "ok" if version == BULKHEAD_VERSION else "warn"
    lines = [Line("server", status, str(door.address), f"version {version}; this command is {BULKHEAD_VERSION}")]
    try:
        worker = await find_worker(api, None, None)
        if worker.state not in ("ready", "degraded"):
            return lines  # not woken for a diagnosis
        chosen = (await api.agent_info(worker.id)).model_cfg
    except BulkheadError:
        return lines
    status = "warn" if chosen.provider == "builtin" else "ok"
    return [*lines, Line("model here", status, f"{chosen.provider}/{chosen.model}", "answers in this directory")]
