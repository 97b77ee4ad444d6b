"""Encode and decode the frames of the language server protocol: a header and a JSON body. No I/O.

A message that is too large is skipped and counted. If it was a response, its request times out; that is better than
losing the server.
"""

from collections.abc import Mapping

import msgspec

HEADER_MAX_BYTES = 4096
_HEADER_END = b"\r\n\r\n"
_LENGTH_NAME = b"content-length"


class BadFrame(Exception):
    """The bytes are not a frame; the rest of the stream cannot be read."""


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a server: a request (`method` and `id`), a notification (`method`), or a response (`id`)."""

    method: str = ""
    id: int | str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: "Failure | None" = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The error of a response."""

    code: int = 0
    message: str = ""


_DECODER = msgspec.json.Decoder(Incoming)


class Framer:
    """Splits a stream of bytes into messages. `skipped` and `unreadable` count the messages left out."""

    def __init__(self, message_max_bytes: int) -> None:
        self._max = message_max_bytes
        self._buffer = bytearray()
        self._body_length = -1  # of the body that is being read; -1 while a header is being read
        self._left_to_skip = 0  # bytes of a body that is too large
        self.skipped = 0
        self.unreadable = 0

    def feed(self, data: bytes) -> list[Incoming]:
        """Add bytes and return the messages that are now complete. Raises BadFrame."""
        self._buffer += data
        messages: list[Incoming] = []
        while self._skip():
            if self._body_length < 0:
                if not self._read_header():
                    break
                continue
            if len(self._buffer) < self._body_length:
                break
            body = bytes(self._buffer[: self._body_length])
            del self._buffer[: self._body_length]
            self._body_length = -1
            try:
                messages.append(_DECODER.decode(body))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self.unreadable += 1
        return messages

    def _skip(self) -> bool:
        """Drop the rest of a body that is too large. Returns False while more of it is to come."""
        count = min(self._left_to_skip, len(self._buffer))
        del self._buffer[:count]
        self._left_to_skip -= count
        return self._left_to_skip == 0

    def _read_header(self) -> bool:
        end = self._buffer.find(_HEADER_END, 0, HEADER_MAX_BYTES)
        if end < 0:
            if len(self._buffer) >= HEADER_MAX_BYTES:
                raise BadFrame(f"no header within {HEADER_MAX_BYTES} bytes: {bytes(self._buffer[:80])!r}")
            return False
        length = _length(bytes(self._buffer[:end]))
        del self._buffer[: end + len(_HEADER_END)]
        if length > self._max:
            self.skipped += 1
            self._left_to_skip = length
        else:
            self._body_length = length
        return True


def _length(header: bytes) -> int:
    for line in header.split(b"\r\n"):
        name, _, value = line.partition(b":")
        # A server may print text before its first header, on the same line: accept any line that ends with the name.
        if name.strip().lower().endswith(_LENGTH_NAME) and value.strip().isdigit() and len(value) < 20:
            return int(value)
    raise BadFrame(f"a header without a valid Content-Length: {header[:80]!r}")


def encode(message: Mapping[str, object]) -> bytes:
    """Return the frame of one message."""
    body = msgspec.json.encode({"jsonrpc": "2.0", **message})
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
