"""Write to the input of a child without blocking: unsent bytes are queued in bounded memory."""

import asyncio
import os

WRITE_BYTES = 64 * 1024  # offered to the kernel at once, the usual size of a pipe


class InputPipe:
    """The writing end of a pipe. The end of the child is noticed by the next write."""

    def __init__(self, fd: int, unsent_max: int) -> None:
        self._fd = fd
        self._unsent = bytearray()
        self._unsent_max = unsent_max
        self._is_closed = False
        self._is_last = False
        self._is_watched = False
        os.set_blocking(fd, False)

    @property
    def unsent(self) -> int:
        """Return how many bytes are queued."""
        return len(self._unsent)

    def write(self, data: bytes) -> None:
        """Send or queue. Raises BrokenPipeError when the input is closed, or the child reads far too slowly."""
        if self._is_closed or self._is_last:
            raise BrokenPipeError("the input of the child is closed")
        if len(self._unsent) + len(data) > self._unsent_max:
            raise BrokenPipeError(f"the child does not read its input: {len(self._unsent)} bytes wait for it")
        self._unsent += data
        if not self._is_watched:
            self._send()
            if self._is_closed:
                raise BrokenPipeError("the child has closed its input")

    def finish(self) -> None:
        """End the stream after the queued bytes."""
        self._is_last = True
        if not self._unsent:
            self.close()

    def close(self) -> None:
        """End the stream at once and drop the queued bytes."""
        if not self._is_closed:
            self._is_closed = True
            self._watch(False)
            self._unsent.clear()
            os.close(self._fd)

    def _send(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._fd, self._unsent[:WRITE_BYTES])]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._is_last and not self._unsent:
            self.close()
            return
        self._watch(bool(self._unsent))

    def _watch(self, is_on: bool) -> None:
        if is_on == self._is_watched:
            return
        self._is_watched = is_on
        loop = asyncio.get_running_loop()
        if is_on:
            loop.add_writer(self._fd, self._send)
        else:
            loop.remove_writer(self._fd)
