"""Parse the bytes of a Server-Sent Events stream into its events."""

from dataclasses import dataclass

LINE_MAX_BYTES = 256 * 1024 * 1024


class StreamUnreadable(Exception):
    """A line exceeds the limit: this is not an event stream of Bulkhead."""


@dataclass(frozen=True, slots=True)
class ServerSent:
    """One event block of the stream. `data` is None for a block that only sets id or retry."""

    data: bytes | None
    id: str | None = None  # None: the block has none
    retry_ms: int | None = None


class Parser:
    """Incremental parser: takes bytes in any pieces and returns the blocks they complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._id: str | None = None
        self._retry_ms: int | None = None

    def feed(self, data: bytes) -> list[ServerSent]:
        """Return the blocks that `data` completes. Raises StreamUnreadable."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_MAX_BYTES:
            raise StreamUnreadable(f"a line of the event stream is longer than {LINE_MAX_BYTES} bytes")
        blocks = []
        for line in lines:
            block = self._line(line.removesuffix(b"\r"))
            if block is not None:
                blocks.append(block)
        return blocks

    def _line(self, line: bytes) -> ServerSent | None:
        if not line:
            return self._end_of_block()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
            case b"id" if b"\0" not in value:
                self._id = value.decode(errors="replace")
            case b"retry" if value.isdigit():
                self._retry_ms = int(value)
            case _:
                pass  # comments and unknown fields
        return None

    def _end_of_block(self) -> ServerSent | None:
        data = b"\n".join(self._data) if self._data else None
        block = ServerSent(data, self._id, self._retry_ms)
        self._data, self._id, self._retry_ms = [], None, None
        return None if block == ServerSent(None) else block
