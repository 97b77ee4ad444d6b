"""Keep the output of a child in bounded memory: its beginning and its end; the middle is only counted (T04).

What is kept does not depend on the pieces in which the bytes arrive.
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
        """Add the next bytes of the stream."""
        self.total_bytes += len(data)
        self._lines += data.count(b"\n")
        missing = self._head_max - len(self._head)
        if missing > 0:
            self._head += data[:missing]
            data = data[missing:]
        if len(data) >= self._tail_max:
            self._tail[:] = data[len(data) - self._tail_max :]
        elif data:
            self._tail += data
            del self._tail[: max(0, len(self._tail) - self._tail_max)]

    @property
    def head(self) -> bytes:
        """Return the first bytes of the stream, at most `head_max`."""
        return bytes(self._head)

    @property
    def tail(self) -> bytes:
        """Return the last bytes after the head, at most `tail_max`."""
        return bytes(self._tail)

    @property
    def dropped_bytes(self) -> int:
        """Return how many bytes between head and tail were not kept."""
        return self.total_bytes - len(self._head) - len(self._tail)

    def text(self) -> str:
        """Return the kept bytes as text, with a line in the middle that counts the rest. Never cuts a character.

        Bytes that are not UTF-8, and NUL, which neither terminals nor databases handle well, become U+FFFD.
        """
        if self.dropped_bytes == 0:
            return _decode(bytes(self._head) + bytes(self._tail))
        head = without_cut_end(bytes(self._head))
        tail = _without_cut_start(bytes(self._tail))
        bytes_dropped = self.total_bytes - len(head) - len(tail)
        lines_dropped = self._lines - head.count(b"\n") - tail.count(b"\n")
        return f"{_decode(head)}\n\n... [{lines_dropped} lines, {bytes_dropped} bytes left out] ...\n\n{_decode(tail)}"


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


def without_cut_end(data: bytes) -> bytes:
    """Return `data` without an incomplete character at its end."""
    for back in range(1, min(CHARACTER_MAX_BYTES, len(data) + 1)):
        byte = data[-back]
        if byte not in CONTINUATION:
            return data[:-back] if byte >= 0xC0 and _length_of(byte) > back else data
    return data


def _without_cut_start(data: bytes) -> bytes:
    """Return `data` without an incomplete character at its beginning."""
    skip = 0
    while skip < min(CHARACTER_MAX_BYTES - 1, len(data)) and data[skip] in CONTINUATION:
        skip += 1
    return data[skip:]


def _length_of(first: int) -> int:
    if first >= 0xF0:
        return 4
    return 3 if first >= 0xE0 else 2
