"""API types for the files of a session."""

from typing import Annotated

import msgspec

Moment = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
"""A time in RFC 3339 format with a time zone; `0001-01-01T00:00:00Z` means never."""


class FileRead(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/filetracker/read`: records that the session has read a file."""

    session_id: Annotated[str, msgspec.Meta(min_length=1)]
    path: Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\x00]+$")]


class FileVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a file that a session changed. Versions count from 0; times are Unix seconds."""

    id: str
    session_id: str
    path: str
    content: str
    version: int = 0
    created_at: int = 0
    updated_at: int = 0
