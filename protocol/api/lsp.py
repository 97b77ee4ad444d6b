"""API types for language servers and their diagnostics."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from protocol.api.file import Moment

ERROR = 1
"""The severity of a diagnostic without one."""

LspState = Annotated[int, msgspec.Meta(ge=0, le=5)]
"""The state of a language server: 0 unstarted, 1 starting, 2 ready, 3 error, 4 stopped, 5 disabled."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A position in a text: line, and UTF-16 code unit in the line, both counted from 0."""

    line: int
    character: int


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """A range in a text, from `start` up to but not including `end`."""

    start: Position
    end: Position


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """A problem that a language server reports in a file. `severity`: 1 error, 2 warning, 3 information, 4 hint."""

    range: Range
    message: str
    severity: int = ERROR
    code: int | str | UnsetType | None = UNSET
    source: str | UnsetType | None = UNSET
    tags: list[int] | UnsetType | None = UNSET


class LspInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A language server. `state`: 0 unstarted, 1 starting, 2 ready, 3 error, 4 stopped, 5 disabled."""

    name: str
    state: LspState
    connected_at: Moment
    error: str = ""
    diagnostic_count: int = 0


class LspEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The payload of the event `lsp_event`; `type` is `state_changed` or `diagnostics_changed`."""

    type: str
    name: str
    state: LspState
    error: str = ""
    diagnostic_count: int = 0
