"""Flags, environment and file into one frozen `ServerConfig`, with errors that say what would be right.

Flags win over the file's `server` section, which wins over the environment's directories, which win over defaults.
Nothing is created or opened here except the configuration file.
"""

import argparse
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

import msgspec

from protocol.limits import DEFAULT_LIMITS, Limits

SOCKET_PATH_MAX = 107
"""What the kernel takes as the path of a Unix socket, in bytes, without the closing NUL."""

LONGEST_SOCKET_NAME = "bulkhead.sock"
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
LOG_LEVELS = ("debug", "info", "warning", "error")

# What a worker must not inherit: it belongs to this process alone, or it would change how Python behaves there.
_NOT_FOR_WORKERS = (
    "NOTIFY_SOCKET",
    "WATCHDOG_",
    "LISTEN_",
    "PYTHON",
    "BULKHEAD_TOKEN",
    "BULKHEAD_LIMITS",
    "BULKHEAD_LOCAL_MODEL",
)


class ConfigError(Exception):
    """The configuration cannot be meant; the text says what would be right. Exit code 2."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """Listen on a Unix stream socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Listen on TCP. Port 0 lets the kernel choose."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Can only this machine reach it?"""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Everything the server was told, checked."""

    runtime_dir: Path
    state_dir: Path
    listeners: tuple[Address, ...]
    has_default_listener: bool = False  # nobody named one; sockets from the service manager replace it
    token_file: Path | None = None  # None: `token` in the runtime directory
    no_auth: bool = False
    host_names: tuple[str, ...] = ()  # further values of `Host` that are ours, on TCP
    idle_exit_s: float | None = None
    on_last_detach: Literal["keep", "cancel"] = "keep"
    default_model: str = ""
    log_level: str = "info"
    limits: Limits = DEFAULT_LIMITS
    spawn_zygote: bool = True  # False: the zygote is another unit's
    local_model: bool = True  # offer the local model if it is installed
    local_model_command: tuple[str, ...] = ()  # instead of our own program, started with its options
    worker_env: Mapping[str, str] = field(default_factory=dict)


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `server` object of bulkhead.json."""

    host: str | list[str] = []
    state_dir: str = ""
    runtime_dir: str = ""
    token_file: str = ""
    no_auth: bool = False
    host_names: list[str] = []
    idle_exit: float | None = None
    on_last_detach: Literal["keep", "cancel"] = "keep"
    default_model: str = ""
    log_level: str = ""
    limits: dict[str, object] = {}
    spawn_zygote: bool = True
    local_model: bool = True
    local_model_command: list[str] = []


class _File(msgspec.Struct, frozen=True):
    server: _Section = _Section()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"cannot read the command line: {message}; see `bulkhead serve --help`")


def parse_address(text: str) -> Address:
    """Read `unix:///PATH` or `tcp://ADDR:PORT`. Raises ConfigError."""
    scheme, separator, rest = text.partition("://")
    if scheme == "unix" and separator:
        path = Path(rest)
        if "\0" in rest:
            raise ConfigError(f"cannot listen on {text!r}: a path has no NUL in it")
        if not path.is_absolute():
            raise ConfigError(f"cannot listen on {text}: the path must be absolute, as in unix:///run/bulkhead.sock")
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:
            raise ConfigError(
                f"cannot listen on {text}: the path is {len(os.fsencode(path))} bytes long and the kernel takes "
                f"{SOCKET_PATH_MAX}; choose a shorter one"
            )
        return UnixAddress(path)
    if scheme == "tcp" and separator:
        host, colon, port = rest.split("/", 1)[0].rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if colon and _is_host(host) and port.isascii() and port.isdecimal() and int(port) < 65536:
            return TcpAddress(host, int(port))
        raise ConfigError(f"cannot listen on {text}: an address and a port are needed, as in tcp://127.0.0.1:8600")
    raise ConfigError(f"cannot listen on {text!r}: write unix:///PATH or tcp://ADDR:PORT")


def _is_host(text: str) -> bool:
    """Is this an address, or a name as resolvers take it?"""
    try:
        ipaddress.ip_address(text)
        return True
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None


def read_config(arguments: Sequence[str], env: Mapping[str, str]) -> ServerConfig:
    """The configuration that command line (after `serve`), environment and file make. Raises ConfigError."""
    flags = _parser().parse_args(list(arguments))
    section = _read_file(flags.config, env)
    runtime_dir = _runtime_dir(flags.runtime_dir or section.runtime_dir, env)
    state_dir = _state_dir(flags.state_dir or section.state_dir, env)
    hosts = flags.host or ([section.host] if isinstance(section.host, str) else section.host)
    listeners = tuple(parse_address(text) for text in hosts if text)
    token_file = flags.token_file or section.token_file
    config = ServerConfig(
        runtime_dir=runtime_dir,
        state_dir=state_dir,
        listeners=listeners or (_default_listener(runtime_dir, env),),
        has_default_listener=not listeners,
        token_file=Path(token_file).absolute() if token_file else None,
        no_auth=flags.no_auth or section.no_auth,
        host_names=tuple(section.host_names),
        idle_exit_s=_idle_exit_s(flags.idle_exit, section.idle_exit, env),
        on_last_detach=section.on_last_detach,
        default_model=section.default_model,
        log_level=(flags.log_level or section.log_level or "info").lower(),
        limits=_limits(section.limits, env),
        spawn_zygote=section.spawn_zygote and not flags.no_zygote,
        local_model=_switch(env, "BULKHEAD_LOCAL_MODEL", section.local_model),
        local_model_command=tuple(section.local_model_command),
        worker_env={key: value for key, value in env.items() if not key.startswith(_NOT_FOR_WORKERS)},
    )
    _check(config)
    return config


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bulkhead serve", description="Start the server in the foreground.", allow_abbrev=False)
    parser.add_argument("--host", action="append", metavar="URL", help="unix:///PATH or tcp://ADDR:PORT; repeatable")
    parser.add_argument("--state-dir", metavar="DIR", help="where the list of workspaces lives")
    parser.add_argument("--runtime-dir", metavar="DIR", help="where sockets and the lock live")
    parser.add_argument("--config", metavar="FILE", help="bulkhead.json with a `server` section")
    parser.add_argument("--token-file", metavar="FILE", help="the bearer token for TCP; made if it does not exist")
    parser.add_argument("--no-auth", action="store_true", help="no token on TCP; loopback addresses only")
    parser.add_argument("--idle-exit", type=float, metavar="SECONDS", help="leave when unused for so long")
    parser.add_argument("--log-level", metavar="L", help=", ".join(LOG_LEVELS))
    parser.add_argument("--no-zygote", action="store_true", help="use the zygote of another unit, start none")
    return parser


def _read_file(named: str | None, env: Mapping[str, str]) -> _Section:
    path = Path(named) if named else _config_dir(env) / "bulkhead.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if named:
            raise ConfigError(f"cannot read {path}: there is no such file; --config wants an existing one") from None
        return _Section()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; it must be readable for this user") from None
    try:
        return msgspec.json.decode(data, type=_File).server
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ConfigError(
            f"cannot read {path}: {error}; `server` takes {', '.join(_Section.__struct_fields__)}"
        ) from None


def _whole_seconds(env: Mapping[str, str], name: str) -> int | None:
    """What the reference server takes from its environment; anything but digits counts as not set."""
    text = env.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _switch(env: Mapping[str, str], name: str, otherwise: bool) -> bool:
    """`1` or `0` from the environment, else what the file says. Raises ConfigError."""
    text = env.get(name, "")
    if text not in ("", "0", "1"):
        raise ConfigError(f"cannot read {name}={text!r}: write 1 for on, 0 for off")
    return text == "1" if text else otherwise


def _idle_exit_s(flag: float | None, section: float | None, env: Mapping[str, str]) -> float | None:
    if flag is not None:
        return flag
    return section if section is not None else _whole_seconds(env, "CRUSH_SERVER_IDLE_TIMEOUT")


def _with_grace(base: Limits, env: Mapping[str, str]) -> Limits:
    grace_s = _whole_seconds(env, "CRUSH_SERVER_DETACH_GRACE")
    return base if grace_s is None else msgspec.structs.replace(base, detach_grace_s=float(grace_s))


def _limits(section: Mapping[str, object], env: Mapping[str, str]) -> Limits:
    """The defaults, changed by the file's `server.limits`, then by BULKHEAD_LIMITS."""
    limits = _changed(_with_grace(DEFAULT_LIMITS, env), section, "server.limits")
    text = env.get("BULKHEAD_LIMITS")
    if not text:
        return limits
    try:
        changes = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"cannot read BULKHEAD_LIMITS: {error}; it wants a JSON object of limits") from None
    return _changed(limits, changes, "BULKHEAD_LIMITS")


def _changed(base: Limits, changes: Mapping[str, object], where: str) -> Limits:
    if unknown := sorted(set(changes) - set(Limits.__struct_fields__)):
        raise ConfigError(f"cannot read {where}: there is no limit named {', '.join(map(repr, unknown))}")
    try:
        limits = msgspec.convert(msgspec.to_builtins(base) | changes, type=Limits)
    except msgspec.ValidationError as error:
        raise ConfigError(f"cannot read {where}: {error}; it wants a JSON object of limits") from None
    if negative := sorted(name for name in changes if getattr(limits, name) < 0):
        raise ConfigError(f"cannot use {where}: {', '.join(negative)} must be a number from 0 up")
    return limits


def _check(config: ServerConfig) -> None:
    longest = config.runtime_dir / LONGEST_SOCKET_NAME
    if len(os.fsencode(longest)) > SOCKET_PATH_MAX:
        raise ConfigError(
            f"cannot use {config.runtime_dir} as runtime directory: the socket {longest} would have a path of "
            f"{len(os.fsencode(longest))} bytes and the kernel takes {SOCKET_PATH_MAX}; choose a shorter one"
        )
    if config.log_level not in LOG_LEVELS:
        raise ConfigError(f"cannot log at level {config.log_level!r}: choose one of {', '.join(LOG_LEVELS)}")
    if config.idle_exit_s is not None and not 0 <= config.idle_exit_s < float("inf"):
        raise ConfigError(f"cannot leave after {config.idle_exit_s} idle seconds: --idle-exit wants a number from 0 up")
    open_to_all = [a for a in config.listeners if isinstance(a, TcpAddress) and not a.is_loopback]
    if open_to_all and config.no_auth:
        raise ConfigError(f"cannot listen on {open_to_all[0]} without a token: --no-auth is for loopback only")
    if open_to_all and config.token_file is None:
        raise ConfigError(
            f"cannot listen on {open_to_all[0]}: other machines could reach it; name a token file with --token-file"
        )


def _first_of(value: str) -> Path | None:
    """systemd gives several directories separated by colons; the first is ours."""
    first = value.split(":", 1)[0]
    return Path(first) if first else None


def _home(env: Mapping[str, str]) -> Path:
    return Path(env.get("HOME") or os.path.expanduser("~"))


def _runtime_dir(named: str, env: Mapping[str, str]) -> Path:
    if named:
        return Path(named).absolute()
    if given := _first_of(env.get("RUNTIME_DIRECTORY", "")):
        return given
    if xdg := env.get("XDG_RUNTIME_DIR"):
        return Path(xdg) / "bulkhead"
    return Path(f"/tmp/bulkhead-{os.getuid()}")


def _state_dir(named: str, env: Mapping[str, str]) -> Path:
    if named:
        return Path(named).absolute()
    if given := _first_of(env.get("STATE_DIRECTORY", "")):
        return given
    return Path(env.get("XDG_STATE_HOME") or _home(env) / ".local" / "state") / "bulkhead"


def _config_dir(env: Mapping[str, str]) -> Path:
    if given := _first_of(env.get("CONFIGURATION_DIRECTORY", "")):
        return given
    return Path(env.get("XDG_CONFIG_HOME") or _home(env) / ".config") / "bulkhead"


def _default_listener(runtime_dir: Path, env: Mapping[str, str]) -> UnixAddress:
    xdg = env.get("XDG_RUNTIME_DIR")
    path = Path(xdg) / "bulkhead.sock" if xdg else runtime_dir / "bulkhead.sock"
    return UnixAddress(path if len(os.fsencode(path)) <= SOCKET_PATH_MAX else runtime_dir / "bulkhead.sock")
