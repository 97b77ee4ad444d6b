"""API types for the server itself, and the body of error responses."""

from typing import Literal

import msgspec


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """The version of the server. Clients compare `version` and `build_id` with their own.

    `go_version` is the version of the runtime; the name is kept for compatibility with Crush's clients.
    """

    version: str
    commit: str
    build_id: str
    go_version: str
    platform: str


class Command(msgspec.Struct, frozen=True):
    """The body of `POST /v1/control`. Both commands only stop an idle server that was started with `--idle-exit`."""

    command: Literal["shutdown", "shutdown_if_idle"]


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """An error. `message` says what failed, why, and what would be right; it may change, but `code` does not."""

    message: str
    code: str
