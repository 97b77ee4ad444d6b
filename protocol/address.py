"""Describe where a server listens: the addresses that server and clients write, and the defaults that both use."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOCKET_PATH_MAX = 107
"""The longest path of a Unix socket that the kernel takes, in bytes, without the closing NUL."""

SOCKET_NAME = "bulkhead.sock"
"""The file name of the server's Unix socket; no other socket of the runtime directory has a longer one."""

_PORT_DIGITS_MAX = 9


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix stream socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP host and port. A server that listens on port 0 gets a free port from the kernel."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as a `Host` header has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address | None:
    """Read `unix:///PATH` or `tcp://HOST:PORT`; return None for any other text.

    An IPv6 host may be in brackets, and what follows a slash after the port is ignored. Neither the spelling of a host
    nor the length of a path is checked.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "unix" and rest.startswith("/"):
        return UnixAddress(Path(rest))
    if separator and scheme == "tcp":
        host, colon, port = rest.split("/", 1)[0].rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if colon and host and _is_port(port):
            return TcpAddress(host, int(port))
    return None


def path_bytes(path: Path) -> int:
    """Return the length of a path as the kernel counts it, to compare with SOCKET_PATH_MAX."""
    return len(bytes(path))


def default_runtime_dir(env: Mapping[str, str], uid: int) -> Path:
    """Return where a server of this user keeps its sockets and its lock unless it is configured otherwise."""
    if given := first_directory(env.get("RUNTIME_DIRECTORY", "")):
        return given
    if xdg := env.get("XDG_RUNTIME_DIR"):
        return Path(xdg) / "bulkhead"
    return Path(f"/tmp/bulkhead-{uid}")


def default_state_dir(env: Mapping[str, str], home: Path) -> Path:
    """Return where a server keeps its list of workspaces unless it is configured otherwise. `home` is the user's."""
    if given := first_directory(env.get("STATE_DIRECTORY", "")):
        return given
    return Path(env.get("XDG_STATE_HOME") or home / ".local" / "state") / "bulkhead"


def default_address(runtime_dir: Path, env: Mapping[str, str]) -> UnixAddress:
    """Return where a server with this runtime directory listens unless it is configured otherwise."""
    xdg = env.get("XDG_RUNTIME_DIR")
    path = Path(xdg) / SOCKET_NAME if xdg else runtime_dir / SOCKET_NAME
    return UnixAddress(path if path_bytes(path) <= SOCKET_PATH_MAX else runtime_dir / SOCKET_NAME)


def first_directory(value: str) -> Path | None:
    """Return the first of the directories in a variable that systemd sets, where colons separate them."""
    first = value.split(":", 1)[0]
    return Path(first) if first else None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _PORT_DIGITS_MAX and int(text) < 65536
