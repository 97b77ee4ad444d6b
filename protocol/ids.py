"""Define the types of ids and the patterns of ids from outside, and make new ids from a given random source."""

import hashlib
import re
from typing import NewType, Protocol

WorkspaceId = NewType("WorkspaceId", str)
SessionId = NewType("SessionId", str)
RunId = NewType("RunId", str)
ClientId = NewType("ClientId", str)
Generation = NewType("Generation", int)
"""Counts the worker processes of one workspace; messages of an old generation are dropped."""
Epoch = NewType("Epoch", int)
"""Counts the supervisors of one runtime directory; a worker obeys the newest that it has heard of."""

# `$` occurs in child session ids (`<message id>$$<tool call id>`).
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:$-]{0,199}\Z")
_UUID = re.compile(
    r"(urn:uuid:)?[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z"
    r"|\{[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\}\Z"
    r"|[0-9a-fA-F]{32}\Z"
)


ID_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.:$-]{0,199}$"
UUID_PATTERN = (
    r"^((urn:uuid:)?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|\{[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}|[0-9a-fA-F]{32})$"
)
"""The same two patterns in the dialect of JSON Schema, for the description of the API."""


class RandomSource(Protocol):
    """The one method of `random.Random` that is needed to make ids."""

    def getrandbits(self, k: int, /) -> int: ...


def is_id(text: str) -> bool:
    """Return whether this is a well-formed id: safe as a key and in logs. Ids are never joined to paths."""
    return _ID.match(text) is not None


def is_uuid(text: str) -> bool:
    """Return whether this is a UUID in a form that clients use (canonical, URN, braces, 32 hex digits)."""
    return _UUID.match(text) is not None


def new_uuid(source: RandomSource) -> str:
    """Return a random UUID (version 4) in canonical form, made from `source`."""
    bits = source.getrandbits(128)
    bits = bits & ~(0xF << 76) | (0x4 << 76)
    bits = bits & ~(0x3 << 62) | (0x2 << 62)
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def new_token(source: RandomSource) -> str:
    """Return 256 random bits in hex; `source` must be unpredictable (`random.SystemRandom`)."""
    return f"{source.getrandbits(256):064x}"


def link_identity(workspace_id: WorkspaceId, generation: Generation, token: str) -> bytes:
    """Return the name of a worker's connection. Only the holder of its token can make it, or take it over (Z10)."""
    return f"{workspace_id}.{generation}.{hashlib.sha256(token.encode()).hexdigest()[:32]}".encode()
