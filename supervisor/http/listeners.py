"""Open listening sockets: Unix sockets with mode 0600 under any umask, TCP, or sockets of a service manager.

The socket file of a dead server is removed, but only after a connection attempt has shown that no server listens there.
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
    """A listener cannot be opened; the text says why and what would be right."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An open listening socket. `made` is (st_dev, st_ino) of a socket file that this process created."""

    socket: socket.socket
    address: Address
    made: tuple[int, int] | None = None

    def __str__(self) -> str:
        return str(self.address)

    @property
    def is_unreachable(self) -> bool:
        """Return whether this process created the socket file and nothing exists at its path now."""
        if self.made is None or not isinstance(self.address, UnixAddress):
            return False
        return not os.path.lexists(self.address.path)

    def remove_file(self) -> None:
        """Remove the socket file, if it is still the one that this process created."""
        if self.made is None or not isinstance(self.address, UnixAddress):
            return
        try:
            status = self.address.path.lstat()
            if (status.st_dev, status.st_ino) == self.made:
                self.address.path.unlink()
        except OSError:
            pass  # already removed, or no permission


def open_listener(address: Address) -> Listener:
    """Listen on `address`. Raises ListenFailed."""
    try:
        return _open_unix(address) if isinstance(address, UnixAddress) else _open_tcp(address)
    except OSError as error:
        raise ListenFailed(f"cannot listen on {address}: {error.strerror or error}") from error


def inherited_listener(listening: socket.socket) -> Listener:
    """Return a listener for a service manager's socket; its file is never removed. Raises ListenFailed."""
    name = listening.getsockname()
    if listening.type != socket.SOCK_STREAM:
        raise ListenFailed(f"cannot use the inherited socket {name!r}: it must be a stream socket")
    if listening.family == socket.AF_UNIX:
        return Listener(listening, UnixAddress(Path(os.fsdecode(name) or "/")))
    return Listener(listening, TcpAddress(name[0], name[1]))


def _open_unix(address: UnixAddress) -> Listener:
    path = address.path
    if not path.parent.is_dir():
        raise ListenFailed(f"cannot listen on {address}: there is no directory {path.parent}; create it first")
    _clear(address)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        previous_umask = os.umask(0o177)  # so that other users cannot connect at any moment
        try:
            listening.bind(str(path))
        finally:
            os.umask(previous_umask)
        status = path.lstat()
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return Listener(listening, address, made=(status.st_dev, status.st_ino))


def _clear(address: UnixAddress) -> None:
    """Remove the socket file of a dead server. Raises ListenFailed for a live one, and for a file that is no socket."""
    try:
        status = address.path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenFailed(f"cannot listen on {address}: the path exists and is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(address.path))
        except (ConnectionRefusedError, FileNotFoundError):
            address.path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ListenFailed(f"cannot listen on {address}: cannot check whether it is in use ({error})") from error
    raise ListenFailed(f"cannot listen on {address}: another server answers there; stop it or choose another --host")


def _open_tcp(address: TcpAddress) -> Listener:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    return Listener(listening, TcpAddress(address.host, listening.getsockname()[1]))
