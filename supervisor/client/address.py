"""Find the address of a server: from the text of an option or variable, else the default address of this user."""

import os
from collections.abc import Mapping
from pathlib import Path

from protocol import address
from protocol.address import Address, TcpAddress, UnixAddress
from protocol.errors import BadInput
from supervisor.client.running_server import answers, running_address


def parse_server_address(text: str) -> Address:
    """Read `unix:///PATH` or `tcp://HOST:PORT`. Raises BadInput, also for port 0, which is only for listening."""
    parsed = address.parse_address(text)
    if parsed is None or (isinstance(parsed, TcpAddress) and parsed.port == 0):
        raise BadInput(f"cannot use {text!r} as the address of a server: write unix:///PATH or tcp://HOST:PORT")
    return parsed


def default_runtime_dir(env: Mapping[str, str]) -> Path:
    """Return where a server of this user keeps its sockets and its lock unless it is configured otherwise."""
    return address.default_runtime_dir(env, os.getuid())


def default_address(env: Mapping[str, str]) -> UnixAddress:
    """Return where this user's server listens: the default address if a server answers there, else that of the server
    that owns the default state directory. Without any it is the default address."""
    usual = address.default_address(default_runtime_dir(env), env)
    if answers(usual):
        return usual
    return running_address(env) or usual
