"""The body of an answer piece by piece, unpacked in bounded memory: a few bytes of a hostile server may become many.

The HTTP library unpacks whatever a server names, layer upon layer, and each piece as a whole. Here it is one layer, and
no more at once than a piece.
"""

import zlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from worker.toolkit.tool import ToolError

if TYPE_CHECKING:
    import httpx2

ACCEPTED = "gzip, deflate"
PIECE_BYTES = 256 * 1024
_PLAIN = ("", "identity")
_GZIP = ("gzip", "x-gzip")
_ANY_HEAD, _NO_HEAD = zlib.MAX_WBITS | 32, -zlib.MAX_WBITS


async def pieces(response: "httpx2.Response") -> AsyncGenerator[bytes, None]:
    """The bytes that the server means, at most `PIECE_BYTES` at once. Raises ToolError, and errors of httpx2."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in _PLAIN:
        async for raw in response.aiter_raw(PIECE_BYTES):
            yield raw
        return
    if encoding not in (*_GZIP, "deflate"):
        raise ToolError(f"cannot read {response.url}: it is packed as {encoding[:40]!r}, which was not asked for")
    unpacker = _Unpacker(encoding == "deflate")
    try:
        async for raw in response.aiter_raw(PIECE_BYTES):
            unpacker.take(raw)
            while piece := unpacker.next():
                yield piece
    except zlib.error as error:
        raise ToolError(f"cannot read {response.url}: it cannot be unpacked: {error}") from None
    if not unpacker.is_whole:
        raise ToolError(f"cannot read {response.url}: it broke off")


class _Unpacker:
    """One layer of gzip, of one or several parts, or of deflate, which some servers send without its head."""

    def __init__(self, may_lack_head: bool) -> None:
        self._may_lack_head = may_lack_head
        self._stream = zlib.decompressobj(_ANY_HEAD)
        self._waiting = b""
        self.is_whole = True

    def take(self, data: bytes) -> None:
        """The next packed bytes."""
        self._waiting += data

    def next(self) -> bytes:
        """The next unpacked bytes; nothing when more has to come first. Raises zlib.error."""
        while self._waiting:
            if self._stream.eof:
                if not self._waiting.startswith(b"\x1f\x8b"):  # rests behind the end mean nothing
                    self._waiting = b""
                    break
                self._stream = zlib.decompressobj(_ANY_HEAD)
            data, self._waiting = self._waiting, b""
            piece = self._unpack(data)
            self._waiting = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            self.is_whole = self._stream.eof
            if piece:
                return piece
        return b""

    def _unpack(self, data: bytes) -> bytes:
        try:
            piece = self._stream.decompress(data, PIECE_BYTES)
        except zlib.error:
            if not self._may_lack_head:
                raise
            self._stream = zlib.decompressobj(_NO_HEAD)
            piece = self._stream.decompress(data, PIECE_BYTES)
        self._may_lack_head = False
        return piece
