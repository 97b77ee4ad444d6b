"""Play a service manager: receive the notifications sent to `NOTIFY_SOCKET`."""

import asyncio
import socket
from pathlib import Path


class Notify:
    """Collect the notifications of the server. Create it before the server starts; wait inside the event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))

    async def wait(self, text: str, timeout_s: float = 10.0) -> None:
        """Wait until a message has arrived with a line that starts with `text`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                while not self.has(text):
                    self._receive(await loop.sock_recv(self._socket, 65536))
        except TimeoutError:
            raise AssertionError(f"no {text!r} within {timeout_s} s; the messages are {self.messages}") from None

    def has(self, text: str) -> bool:
        """Receive the pending messages and return whether a line starts with `text`."""
        while True:
            try:
                self._receive(self._socket.recv(65536))
            except BlockingIOError:
                break
        return any(line.startswith(text) for message in self.messages for line in message.splitlines())

    def forget(self) -> None:
        """Discard all messages so far."""
        self.has("")
        self.messages.clear()

    def close(self) -> None:
        """Close and remove the socket."""
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _receive(self, data: bytes) -> None:
        self.messages.append(data.decode())
