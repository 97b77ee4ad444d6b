"""Where a server is: addresses as people write them, and the places that are looked at when nobody names one.

The defaults are the ones that the server itself uses; a test compares the two.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import BadInput

SOCKET_PATH_MAX = 107
"""What the kernel takes as the path of a Unix socket, in bytes, without the closing NUL."""

SOCKET_NAME = "bulkhead.sock"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix stream socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as they stand in a `Host` header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """Read `unix:///PATH` or `tcp://HOST:PORT`. Raises BadInput."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "unix" and rest.startswith("/"):
        return UnixAddress(Path(rest))
    if separator and scheme == "tcp":
        host, colon, port = rest.split("/", 1)[0].rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if colon and host and port.isdecimal() and 0 < int(port) < 65536:
            return TcpAddress(host, int(port))
    raise BadInput(f"cannot use {text!r} as the address of a server: write unix:///PATH or tcp://HOST:PORT")


def default_runtime_dir(env: Mapping[str, str]) -> Path:
    """Where a server that was told nothing keeps its sockets and its lock."""
    first = env.get("RUNTIME_DIRECTORY", "").split(":", 1)[0]
    if first:
        return Path(first)
    if xdg := env.get("XDG_RUNTIME_DIR"):
        return Path(xdg) / "bulkhead"
    return Path(f"/tmp/bulkhead-{os.getuid()}")


def default_address(env: Mapping[str, str]) -> UnixAddress:
    """Where a server that was told nothing listens."""
    runtime_dir = default_runtime_dir(env)
    xdg = env.get("XDG_RUNTIME_DIR")
    path = Path(xdg) / SOCKET_NAME if xdg else runtime_dir / SOCKET_NAME
    return UnixAddress(path if len(os.fsencode(path)) <= SOCKET_PATH_MAX else runtime_dir / SOCKET_NAME)
