"""Opens listening sockets: Unix with mode 0600 under any umask, TCP on demand, or those a service manager opened.

A socket file of a dead server is removed only after nobody answered there; a live one is left alone.
"""

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from protocol.address import Address, TcpAddress, UnixAddress

BACKLOG = 1024
PROBE_S = 0.2


class ListenFailed(Exception):
    """This listener cannot be opened; the text says why and what would be right."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An open listening socket. `made` is the identity of a socket file that is ours to remove."""

    socket: socket.socket
    address: Address
    made: tuple[int, int] | None = None

    def __str__(self) -> str:
        return str(self.address)

    @property
    def is_unreachable(self) -> bool:
        """Was our socket file taken away, and nothing put in its place?"""
        if self.made is None or not isinstance(self.address, UnixAddress):
            return False
        return not os.path.lexists(self.address.path)

    def remove_file(self) -> None:
        """Remove the socket file, if it is still the one we made."""
        if self.made is None or not isinstance(self.address, UnixAddress):
            return
        try:
            found = self.address.path.lstat()
            if (found.st_dev, found.st_ino) == self.made:
                self.address.path.unlink()
        except OSError:
            pass  # gone already, or not ours to remove any more


def open_listener(address: Address) -> Listener:
    """Listen on `address`. Raises ListenFailed."""
    try:
        return _open_unix(address) if isinstance(address, UnixAddress) else _open_tcp(address)
    except OSError as error:
        raise ListenFailed(f"cannot listen on {address}: {error.strerror or error}") from error


def inherited_listener(listening: socket.socket) -> Listener:
    """A socket that a service manager opened; its file is not ours. Raises ListenFailed."""
    name = listening.getsockname()
    if listening.type != socket.SOCK_STREAM:
        raise ListenFailed(f"cannot use the inherited socket {name!r}: it must be a stream socket")
    if listening.family == socket.AF_UNIX:
        return Listener(listening, UnixAddress(Path(os.fsdecode(name) or "/")))
    return Listener(listening, TcpAddress(name[0], name[1]))


def _open_unix(address: UnixAddress) -> Listener:
    path = address.path
    if not path.parent.is_dir():
        raise ListenFailed(f"cannot listen on {address}: there is no directory {path.parent}; make it first")
    _clear(address)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # no moment in which another user could connect
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        found = path.lstat()
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return Listener(listening, address, made=(found.st_dev, found.st_ino))


def _clear(address: UnixAddress) -> None:
    """Remove the file of a dead server. Raises ListenFailed for a live one, and for anything that is no socket."""
    try:
        found = address.path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenFailed(f"cannot listen on {address}: there is a file that is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(address.path))
        except (ConnectionRefusedError, FileNotFoundError):
            address.path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ListenFailed(f"cannot listen on {address}: what is there cannot be judged ({error})") from error
    raise ListenFailed(f"cannot listen on {address}: another server answers there; stop it or choose another --host")


def _open_tcp(address: TcpAddress) -> Listener:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    return Listener(listening, TcpAddress(address.host, listening.getsockname()[1]))
