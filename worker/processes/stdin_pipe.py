"""Our end of the input of a child: what it cannot take at once waits here, in bounded memory, and never blocks us."""

import asyncio
import os

WRITE_BYTES = 64 * 1024  # offered to the kernel at once, the usual size of a pipe


class InputPipe:
    """The writing end of a pipe. A child that has gone is noticed by the next write."""

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
        """How many bytes wait to be taken."""
        return len(self._unsent)

    def write(self, data: bytes) -> None:
        """Send, or keep for later. Raises BrokenPipeError when nobody reads any more, or far too little."""
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
        """Nothing more is written: the stream ends when all that waits has been taken."""
        self._is_last = True
        if not self._unsent:
            self.close()

    def close(self) -> None:
        """End the stream; what waits is dropped."""
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

    def _watch(self, wanted: bool) -> None:
        if wanted == self._is_watched:
            return
        self._is_watched = wanted
        loop = asyncio.get_running_loop()
        if wanted:
            loop.add_writer(self._fd, self._send)
        else:
            loop.remove_writer(self._fd)
