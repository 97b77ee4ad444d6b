"""Id types, the pattern that ids from outside must match, and making new ones from a given random source."""

import hashlib
import re
from typing import NewType, Protocol

WorkspaceId = NewType("WorkspaceId", str)
SessionId = NewType("SessionId", str)
RunId = NewType("RunId", str)
MessageId = NewType("MessageId", str)
ClientId = NewType("ClientId", str)
Generation = NewType("Generation", int)
"""Counts the worker processes of one workspace; what carries an old one is dropped."""
Epoch = NewType("Epoch", int)
"""Counts the supervisors of one runtime directory; a worker obeys the newest it has heard."""

ID_LENGTH_MAX = 200
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
"""The same two for the description of the API, in the dialect of JSON Schema."""


class RandomSource(Protocol):
    """The one method of `random.Random` that id making needs."""

    def getrandbits(self, k: int, /) -> int: ...


def is_id(text: str) -> bool:
    """Is this a well-formed id? Well-formed ids are safe as keys and in logs; they are never joined to paths."""
    return _ID.match(text) is not None


def is_uuid(text: str) -> bool:
    """Is this a UUID in one of the spellings that clients use (canonical, URN, braces, 32 hex digits)?"""
    return _UUID.match(text) is not None


def new_uuid(source: RandomSource) -> str:
    """A random UUID (version 4) in canonical spelling, made from `source`."""
    bits = source.getrandbits(128)
    bits = bits & ~(0xF << 76) | (0x4 << 76)
    bits = bits & ~(0x3 << 62) | (0x2 << 62)
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def new_token(source: RandomSource) -> str:
    """256 random bits in hex; `source` must be unpredictable (`random.SystemRandom`)."""
    return f"{source.getrandbits(256):064x}"


def link_identity(workspace_id: WorkspaceId, generation: Generation, token: str) -> bytes:
    """The name of a worker's connection. Nobody without its token can make it up, or take it over (Z10)."""
    return f"{workspace_id}.{generation}.{hashlib.sha256(token.encode()).hexdigest()[:32]}".encode()
