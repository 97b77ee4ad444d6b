"""The frames of the language server protocol: headers and JSON, cut out of a stream of bytes. No I/O.

A message that is too large is stepped over and counted: its sender then waits for an answer until its own deadline,
which is better than losing the server.
"""

from collections.abc import Mapping

import msgspec

HEADER_MAX_BYTES = 4096
_END = b"\r\n\r\n"
_LENGTH = b"content-length"


class BadFrame(Exception):
    """What came is no frame; the stream cannot be read any further."""


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a server: a request (`method` and `id`), a notification (`method`), or an answer (`id`)."""

    method: str = ""
    id: int | str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: "Failure | None" = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The error of an answer."""

    code: int = 0
    message: str = ""


_DECODER = msgspec.json.Decoder(Incoming)


class Framer:
    """Takes bytes as they come and gives whole messages."""

    def __init__(self, message_max_bytes: int) -> None:
        self._max = message_max_bytes
        self._buffer = bytearray()
        self._wanted = -1  # bytes of the body that is being read; -1 while it is the header's turn
        self._skipping = 0  # bytes of a body that is too large
        self.skipped = 0
        self.unreadable = 0

    def feed(self, data: bytes) -> list[Incoming]:
        """The messages that are complete now. Raises BadFrame."""
        self._buffer += data
        found: list[Incoming] = []
        while self._has_skipped():
            if self._wanted < 0:
                if not self._read_header():
                    break
                continue
            if len(self._buffer) < self._wanted:
                break
            body = bytes(self._buffer[: self._wanted])
            del self._buffer[: self._wanted]
            self._wanted = -1
            try:
                found.append(_DECODER.decode(body))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self.unreadable += 1
        return found

    def _has_skipped(self) -> bool:
        """Step over what is left of a body that is too large; False while there is more of it to come."""
        gone = min(self._skipping, len(self._buffer))
        del self._buffer[:gone]
        self._skipping -= gone
        return self._skipping == 0

    def _read_header(self) -> bool:
        end = self._buffer.find(_END, 0, HEADER_MAX_BYTES)
        if end < 0:
            if len(self._buffer) >= HEADER_MAX_BYTES:
                raise BadFrame(f"no header within {HEADER_MAX_BYTES} bytes: {bytes(self._buffer[:80])!r}")
            return False
        length = _length(bytes(self._buffer[:end]))
        del self._buffer[: end + len(_END)]
        if length > self._max:
            self.skipped += 1
            self._skipping = length
        else:
            self._wanted = length
        return True


def _length(header: bytes) -> int:
    for line in header.split(b"\r\n"):
        name, _, value = line.partition(b":")
        # A server may have printed something before its first header; only the last line of it counts.
        if name.strip().lower().endswith(_LENGTH) and value.strip().isdigit() and len(value) < 20:
            return int(value)
    raise BadFrame(f"a header without a length: {header[:80]!r}")


def encode(message: Mapping[str, object]) -> bytes:
    """One frame."""
    body = msgspec.json.encode({"jsonrpc": "2.0", **message})
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
