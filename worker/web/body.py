"""Read the body of a response in pieces and decompress it in bounded memory, also from a hostile server.

The HTTP library decompresses all layers that a server names, and each piece as a whole. This module decompresses one
layer, and at most `PIECE_BYTES` at once.
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
_ANY_HEADER, _NO_HEADER = zlib.MAX_WBITS | 32, -zlib.MAX_WBITS


async def read_pieces(response: "httpx2.Response") -> AsyncGenerator[bytes, None]:
    """Yield the decompressed body, at most `PIECE_BYTES` at once. Raises ToolError, and errors of httpx2."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in _PLAIN:
        async for raw in response.aiter_raw(PIECE_BYTES):
            yield raw
        return
    if encoding not in (*_GZIP, "deflate"):
        raise ToolError(f"cannot read {response.url}: it is compressed as {encoding[:40]!r}, which was not requested")
    decompressor = _Decompressor(encoding == "deflate")
    try:
        async for raw in response.aiter_raw(PIECE_BYTES):
            decompressor.take(raw)
            while piece := decompressor.next():
                yield piece
    except zlib.error as error:
        raise ToolError(f"cannot read {response.url}: it cannot be decompressed: {error}") from None
    if not decompressor.is_whole:
        raise ToolError(f"cannot read {response.url}: it was cut off")


class _Decompressor:
    """Decompresses one layer of gzip, in one or more members, or of deflate, which some servers send headerless."""

    def __init__(self, may_lack_header: bool) -> None:
        self._may_lack_header = may_lack_header
        self._stream = zlib.decompressobj(_ANY_HEADER)
        self._input = b""
        self.is_whole = True

    def take(self, data: bytes) -> None:
        """Add compressed bytes."""
        self._input += data

    def next(self) -> bytes:
        """Return more decompressed bytes; empty when it needs more input. Raises zlib.error."""
        while self._input:
            if self._stream.eof:
                if not self._input.startswith(b"\x1f\x8b"):  # bytes behind the end have no meaning
                    self._input = b""
                    break
                self._stream = zlib.decompressobj(_ANY_HEADER)
            data, self._input = self._input, b""
            piece = self._decompress(data)
            self._input = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            self.is_whole = self._stream.eof
            if piece:
                return piece
        return b""

    def _decompress(self, data: bytes) -> bytes:
        try:
            piece = self._stream.decompress(data, PIECE_BYTES)
        except zlib.error:
            if not self._may_lack_header:
                raise
            self._stream = zlib.decompressobj(_NO_HEADER)
            piece = self._stream.decompress(data, PIECE_BYTES)
        self._may_lack_header = False
        return piece
