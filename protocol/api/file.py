"""Files as sessions know them (http-api 2.4, 3.7)."""

from typing import Annotated

import msgspec

Moment = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339 with a zone; `0001-01-01T00:00:00Z` means never."""


class FileRead(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/filetracker/read`: the client shows this file to the session."""

    session_id: Annotated[str, msgspec.Meta(min_length=1)]
    path: Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\x00]+$")]


class FileVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a file that a session changed; the first is 0. Times are Unix seconds."""

    id: str
    session_id: str
    path: str
    content: str
    version: int = 0
    created_at: int = 0
    updated_at: int = 0
