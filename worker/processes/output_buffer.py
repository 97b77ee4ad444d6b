"""What a child printed, in bounded memory: the beginning and the end are kept, the middle is only counted (T04).

How the bytes arrive in pieces makes no difference to what is kept.
"""

CONTINUATION = range(0x80, 0xC0)  # the bytes of a UTF-8 character after its first
CHARACTER_MAX_BYTES = 4


class OutputBuffer:
    """Keeps the first `head_max` and the last `tail_max` bytes of a stream."""

    def __init__(self, head_max: int, tail_max: int) -> None:
        self._head_max = head_max
        self._tail_max = tail_max
        self._head = bytearray()
        self._tail = bytearray()
        self._lines = 0
        self.total_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self.total_bytes += len(data)
        self._lines += data.count(b"\n")
        room = self._head_max - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if len(data) >= self._tail_max:
            self._tail[:] = data[len(data) - self._tail_max :]
        elif data:
            self._tail += data
            del self._tail[: max(0, len(self._tail) - self._tail_max)]

    @property
    def head(self) -> bytes:
        """The first bytes of the stream, at most `head_max`."""
        return bytes(self._head)

    @property
    def tail(self) -> bytes:
        """The last bytes of what came after the head, at most `tail_max`."""
        return bytes(self._tail)

    @property
    def dropped_bytes(self) -> int:
        """How many bytes between head and tail were not kept."""
        return self.total_bytes - len(self._head) - len(self._tail)

    def text(self) -> str:
        """What is kept, as text, with a line in the middle that counts what is not. Never half a character.

        Bytes that are not UTF-8, and NUL, which neither terminals nor databases like, are shown as U+FFFD.
        """
        if self.dropped_bytes == 0:
            return _decode(bytes(self._head) + bytes(self._tail))
        head = without_cut_end(bytes(self._head))
        tail = _without_cut_start(bytes(self._tail))
        bytes_gone = self.total_bytes - len(head) - len(tail)
        lines_gone = self._lines - head.count(b"\n") - tail.count(b"\n")
        return f"{_decode(head)}\n\n... [{lines_gone} lines, {bytes_gone} bytes left out] ...\n\n{_decode(tail)}"


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


def without_cut_end(data: bytes) -> bytes:
    """`data` without the beginning of a character whose rest was cut off."""
    for back in range(1, min(CHARACTER_MAX_BYTES, len(data) + 1)):
        byte = data[-back]
        if byte not in CONTINUATION:
            return data[:-back] if byte >= 0xC0 and _length_of(byte) > back else data
    return data


def _without_cut_start(data: bytes) -> bytes:
    """`data` without the rest of a character whose beginning was cut off."""
    skip = 0
    while skip < min(CHARACTER_MAX_BYTES - 1, len(data)) and data[skip] in CONTINUATION:
        skip += 1
    return data[skip:]


def _length_of(first: int) -> int:
    if first >= 0xF0:
        return 4
    return 3 if first >= 0xE0 else 2
