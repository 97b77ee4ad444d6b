"""Implement `bulkhead doctor`: check the host, one line per requirement, and say what each result means."""

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
from supervisor.cli.common_options import (
    ServerTarget,
    find_server,
    find_worker,
    json_option,
    perform,
    print_json,
    server_options,
)
from supervisor.cli.terminal.formatting import colourise, table

Status = Literal["ok", "warn", "missing"]
_COLOURS = {"ok": "green", "warn": "yellow", "missing": "red"}

KERNEL_MIN = (5, 10)
SQLITE_MIN = (3, 35, 0)
OPEN_FILES_MIN = 4096
PROCESSES_MIN = 512
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_VERSION_FLAG = 1
LANDLOCK_MIN = 3  # earlier versions cannot forbid truncating files
LANDLOCK_SIGNALS = 6
CONFINE_NOT = "`tools.confine` has no effect as `auto`; with `required` no command runs"
KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY")
CONFIG_NAMES = ("bulkhead.json", ".bulkhead.json", "crush.json", ".crush.json")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One result. `missing`: the server cannot work properly; `warn`: it works with restrictions."""

    what: str
    status: Status
    found: str
    meaning: str


@click.command(epilog="\b\nExamples:\n  bulkhead doctor\n  bulkhead doctor --json | jq -r 'select(.status != \"ok\")'")
@json_option
@server_options
def doctor(as_json: bool, host: str | None, token_file: Path | None) -> None:
    """Check whether this host has what Bulkhead needs.

    The exit code is 1 when something that the server needs is missing.
    """

    async def work() -> int:
        lines = [check() for check in CHECKS]
        lines += await _server(find_server(host, token_file))
        if as_json:
            for line in lines:
                print_json(asdict(line))
        else:
            _print(lines)
        return int(any(line.status == "missing" for line in lines))

    perform(work())


def _print(lines: list[CheckResult]) -> None:
    rows = [[line.what, line.status, line.found, line.meaning] for line in lines]
    head, *body = table(["WHAT", "STATUS", "FOUND", "MEANING"], rows).split("\n")
    click.echo(colourise(head, "bold", sys.stdout), color=True)
    for text, line in zip(body, lines, strict=True):
        # The status has its own column: colour the word there, not inside another column.
        start = text.index(line.status, len(line.what))
        end = start + len(line.status)
        click.echo(text[:start] + colourise(line.status, _COLOURS[line.status], sys.stdout) + text[end:], color=True)


def _python() -> CheckResult:
    version = platform.python_version()
    fits = sys.version_info >= (3, 11)
    return CheckResult("python", "ok" if fits else "missing", version, "3.11 or later is needed")


def _packages() -> CheckResult:
    locations = {}
    for name in ("supervisor", "worker", "protocol"):
        spec = find_spec(name)
        locations[name] = Path(spec.origin).parent.parent if spec is not None and spec.origin else None
    if len(set(locations.values())) == 1 and None not in locations.values():
        return CheckResult("packages", "ok", BULKHEAD_VERSION, "supervisor, worker and protocol are installed together")
    return CheckResult(
        "packages",
        "missing",
        ", ".join(f"{name} in {location}" for name, location in locations.items()),
        "another distribution has a package of the same name: install Bulkhead into its own environment",
    )


def _kernel() -> CheckResult:
    release = platform.release()
    numbers = tuple(int(word) for word in release.split("-")[0].split(".")[:2] if word.isdigit())
    if sys.platform != "linux":
        return CheckResult(
            "kernel", "warn", f"{platform.system()} {release}", "only Linux is supported; some parts may run"
        )
    fits = numbers >= KERNEL_MIN
    return CheckResult("kernel", "ok" if fits else "missing", release, "5.10 or later is needed")


def _pidfd() -> CheckResult:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError) as error:
        return CheckResult("pidfd", "missing", str(error), "workers cannot be tracked safely: pids are reused")
    return CheckResult("pidfd", "ok", "works", "a worker's exit is noticed at once, also after a supervisor restart")


def _landlock() -> CheckResult:
    library = ctypes.CDLL(None, use_errno=True)
    version = library.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(LANDLOCK_VERSION_FLAG))
    if version < 1:
        reason = os.strerror(ctypes.get_errno())
        return CheckResult("landlock", "warn", reason, CONFINE_NOT)
    if version < LANDLOCK_MIN:
        return CheckResult("landlock", "warn", f"ABI {version}, {LANDLOCK_MIN} is needed", CONFINE_NOT)
    gap = "" if version >= LANDLOCK_SIGNALS else "; this kernel cannot keep them from signalling other processes"
    mode = os.environ.get("BULKHEAD_CONFINE")
    setting = f"BULKHEAD_CONFINE={mode} is set" if mode else "see `tools.confine`"
    return CheckResult(
        "landlock", "ok", f"ABI {version}", f"commands can be confined to their workspace ({setting}){gap}"
    )


def _cgroup() -> CheckResult:
    restriction = "no memory and process limits per worker; its process tree is ended without cgroups"
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError as error:
        return CheckResult("cgroup v2", "warn", str(error.strerror), restriction)
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        return CheckResult("cgroup v2", "warn", "this host uses version 1", restriction)
    own = Path("/sys/fs/cgroup") / path.lstrip("/")
    try:
        controllers = (own / "cgroup.controllers").read_text().split()
    except OSError:
        return CheckResult("cgroup v2", "warn", "not mounted here", restriction)
    if not os.access(own / "cgroup.procs", os.W_OK):
        return CheckResult(
            "cgroup v2", "warn", "not delegated to this user", f"{restriction}; the systemd units delegate one"
        )
    status: Status = "ok" if {"memory", "pids"} <= set(controllers) else "warn"
    return CheckResult(
        "cgroup v2",
        status,
        f"writable, with {' '.join(controllers) or 'no controllers'}",
        "can limit a worker's process tree",
    )


def _sqlite() -> CheckResult:
    fits = sqlite3.sqlite_version_info >= SQLITE_MIN
    return CheckResult("sqlite", "ok" if fits else "missing", sqlite3.sqlite_version, "3.35 or later is needed")


def _open_files() -> CheckResult:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    status: Status = "ok" if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES_MIN else "warn"
    return CheckResult(
        "open files", status, f"{_limit(soft)} of {_limit(hard)}", "one per client, a few per worker; see `ulimit -n`"
    )


def _processes() -> CheckResult:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    status: Status = "ok" if soft == resource.RLIM_INFINITY or soft >= PROCESSES_MIN else "warn"
    return CheckResult(
        "processes", status, f"{_limit(soft)} of {_limit(hard)}", "one per workspace, more for tools; see `ulimit -u`"
    )


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _runtime_dir() -> CheckResult:
    fallback = f"/tmp/bulkhead-{os.getuid()}"
    text = os.environ.get("XDG_RUNTIME_DIR")
    if not text:
        return CheckResult("XDG_RUNTIME_DIR", "warn", "not set", f"sockets are under {fallback} instead")
    try:
        status = Path(text).stat()
    except OSError as error:
        return CheckResult(
            "XDG_RUNTIME_DIR", "missing", f"{text}: {error.strerror}", "unset it, or set it to a directory"
        )
    if status.st_uid != os.getuid():
        return CheckResult(
            "XDG_RUNTIME_DIR", "missing", f"{text} belongs to user {status.st_uid}", "unset it, or set it to your own"
        )
    if stat.S_IMODE(status.st_mode) & 0o022:
        return CheckResult("XDG_RUNTIME_DIR", "warn", f"{text} is writable for others", "run `chmod 700` on it")
    return CheckResult("XDG_RUNTIME_DIR", "ok", text, "holds the sockets, closed to other users")


def _model() -> CheckResult:
    keys = [key for key in KEYS if os.environ.get(key)]
    files = [str(path) for path in _config_files() if _names_providers(path)]
    if keys or files:
        return CheckResult("model", "ok", ", ".join(keys + files), "a server started from this shell can use it")
    fallback = "local/smollm2" if is_installed() else "the scripted model"
    return CheckResult(
        "model",
        "warn",
        "no key, no provider",
        f"{fallback} answers; set ANTHROPIC_API_KEY or OPENAI_API_KEY for the server, or see README.md",
    )


def _local_model() -> CheckResult:
    if not is_installed():
        return CheckResult(
            "local model", "ok", "not installed", "`make local-model` installs a very small one, to try it out"
        )
    spec = find_spec(PACKAGES[1])
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    if folder is None or not any(folder.glob("*.gguf")):
        return CheckResult(
            "local model", "missing", str(folder), "its file is missing: `make local-model` installs it again"
        )
    if os.environ.get("BULKHEAD_LOCAL_MODEL") == "0":
        return CheckResult("local model", "ok", "switched off", "BULKHEAD_LOCAL_MODEL=0 is set")
    return CheckResult(
        "local model", "ok", "smollm2", "one process for all workspaces, started by the first prompt to it"
    )


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


CHECKS: tuple[Callable[[], CheckResult], ...] = (
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


async def _server(target: ServerTarget) -> list[CheckResult]:
    """Check whether a server is running and which model answers in this directory."""
    api = target.api()
    try:
        version = (await api.version()).version
    except BulkheadError as error:
        return [CheckResult("server", "warn", str(target.address), error.message)]
    status: Status = "ok" if version == BULKHEAD_VERSION else "warn"
    lines = [
        CheckResult("server", status, str(target.address), f"version {version}; this command is {BULKHEAD_VERSION}")
    ]
    try:
        worker = await find_worker(api, None, None)
        if worker.state not in ("ready", "degraded"):
            return lines  # do not wake a worker for a diagnosis
        model = (await api.agent_info(worker.id)).model_cfg
    except BulkheadError:
        return lines
    status = "warn" if model.provider == "builtin" else "ok"
    return [*lines, CheckResult("model here", status, f"{model.provider}/{model.model}", "answers in this directory")]
