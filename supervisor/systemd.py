"""Talk to a service manager: notify it, feed its watchdog, take over the sockets that it opened."""

import os
import socket
from collections.abc import MutableMapping

LISTEN_FDS_START = 3


class Notifier:
    """Sends states to the socket that `NOTIFY_SOCKET` names; does nothing when there is none."""

    def __init__(self, env: MutableMapping[str, str]) -> None:
        """Remove the variables from `env`, so that children do not use them."""
        address = env.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog_pid = env.pop("WATCHDOG_PID", "")
        watchdog_us = env.pop("WATCHDOG_USEC", "")
        is_ours = watchdog_pid in ("", str(os.getpid()))
        self.watchdog_s = int(watchdog_us) / 1e6 if is_ours and watchdog_us.isdecimal() else None
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def ready(self, status: str) -> None:
        """Report that the server listens and the workers of the previous supervisor are adopted or ended."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Report that the shutdown has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog; to be called more often than every `watchdog_s` seconds."""
        self._send("WATCHDOG=1")

    def extend(self, by_s: float) -> None:
        """Report that the shutdown makes progress and needs at most `by_s` more seconds."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(by_s * 1e6)}")

    def close(self) -> None:
        """Close the socket; nothing is sent afterwards."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:
            pass  # a dead or slow manager must not stop the server


def inherited_sockets(env: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that a service manager opened for this process, in its order."""
    pid, count = env.pop("LISTEN_PID", ""), env.pop("LISTEN_FDS", "")
    env.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = []
    for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + int(count)):
        os.set_inheritable(fd, False)
        sockets.append(socket.socket(fileno=fd))
    return sockets
