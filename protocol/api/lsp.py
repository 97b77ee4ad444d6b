"""Language servers and what they say is wrong (http-api 2.8, 3.11)."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from protocol.api.file import Moment

ERROR = 1
"""The severity of a diagnostic that has none."""

LspState = Annotated[int, msgspec.Meta(ge=0, le=5)]
"""0 unstarted, 1 starting, 2 ready, 3 error, 4 stopped, 5 disabled."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a text: line and UTF-16 code unit in the line, both counted from 0."""

    line: int
    character: int


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """From `start` up to, not including, `end`."""

    start: Position
    end: Position


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong in a file. Clients count by `severity`, so it is always told."""

    range: Range
    message: str
    severity: int = ERROR
    code: int | str | UnsetType | None = UNSET
    source: str | UnsetType | None = UNSET
    tags: list[int] | UnsetType | None = UNSET


class LspInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One language server as clients see it."""

    name: str
    state: LspState
    connected_at: Moment
    error: str = ""
    diagnostic_count: int = 0


class LspEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The payload of an `lsp_event`; `type` is `state_changed` or `diagnostics_changed`."""

    type: str
    name: str
    state: LspState
    error: str = ""
    diagnostic_count: int = 0
