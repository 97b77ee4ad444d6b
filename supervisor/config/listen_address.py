"""Check the addresses that the server is configured to listen on."""

import ipaddress
import re
from collections.abc import Sequence

from protocol.address import SOCKET_PATH_MAX, Address, UnixAddress, parse_address, path_bytes
from supervisor.config.errors import ConfigError

_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def parse_listen_address(text: str) -> Address:
    """Read `unix:///PATH` or `tcp://ADDR:PORT`. Raises ConfigError."""
    address = parse_address(text)
    if text.startswith("unix://"):
        if "\0" in text:
            raise ConfigError(f"cannot listen on {text!r}: a path has no NUL in it")
        if not isinstance(address, UnixAddress):
            raise ConfigError(f"cannot listen on {text}: the path must be absolute, as in unix:///run/bulkhead.sock")
        if (length := path_bytes(address.path)) > SOCKET_PATH_MAX:
            raise ConfigError(
                f"cannot listen on {text}: the path is {length} bytes long and the kernel takes {SOCKET_PATH_MAX}; "
                "choose a shorter one"
            )
        return address
    if text.startswith("tcp://"):
        if address is None or isinstance(address, UnixAddress) or not _is_host(address.host):
            raise ConfigError(f"cannot listen on {text}: an address and a port are needed, as in tcp://127.0.0.1:8600")
        return address
    raise ConfigError(f"cannot listen on {text!r}: write unix:///PATH or tcp://ADDR:PORT")


def parse_listen_addresses(texts: str | Sequence[str]) -> tuple[Address, ...]:
    """Read one address or several; empty ones are left out. Raises ConfigError."""
    return tuple(parse_listen_address(text) for text in ((texts,) if isinstance(texts, str) else texts) if text)


def _is_host(text: str) -> bool:
    """Return whether this is an IP address, or a name as resolvers take it."""
    try:
        ipaddress.ip_address(text)
        return True
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
