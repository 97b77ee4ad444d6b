"""What the server says of itself, and how it tells of errors (http-api 0.3, 1.5, 1.6)."""

from typing import Literal

import msgspec


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/version`. Clients compare `version` and `build_id` with their own."""

    version: str
    commit: str
    build_id: str
    go_version: str  # of the runtime; the name is the reference's
    platform: str


class Command(msgspec.Struct, frozen=True):
    """`POST /v1/control`. Both leave only an idle server that was started to leave when idle."""

    command: Literal["shutdown", "shutdown_if_idle"]


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be done, why, and what would be right; `code` is stable, the text is not."""

    message: str
    code: str
