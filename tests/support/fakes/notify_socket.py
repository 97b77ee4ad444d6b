"""A fake service manager: the datagram socket that `NOTIFY_SOCKET` names."""

import asyncio
import socket
from pathlib import Path


class Notify:
    """Collects what the server tells its manager. Made before the server starts; waits inside the test's loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))

    async def wait(self, text: str, timeout_s: float = 10.0) -> None:
        """Returns when a message with the line `text` (or beginning with it) has come."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                while not self.has(text):
                    self._take(await loop.sock_recv(self._socket, 65536))
        except TimeoutError:
            raise AssertionError(f"no {text!r} within {timeout_s} s; the server said {self.messages}") from None

    def has(self, text: str) -> bool:
        """Was this said already? Takes in what waits in the socket."""
        while True:
            try:
                self._take(self._socket.recv(65536))
            except BlockingIOError:
                break
        return any(line.startswith(text) for message in self.messages for line in message.splitlines())

    def forget(self) -> None:
        """What was said before does not count any more."""
        self.has("")
        self.messages.clear()

    def close(self) -> None:
        """Close and remove the socket."""
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _take(self, data: bytes) -> None:
        self.messages.append(data.decode())
