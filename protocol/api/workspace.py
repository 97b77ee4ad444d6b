"""Workspaces as API v1 sends them (http-api 3.1), and what the operators' routes say about workers."""

from typing import Annotated

import msgspec

from protocol.ids import UUID_PATTERN

EMPTY_CONFIG = msgspec.Raw(b'{"providers":{},"options":{"tui":{}}}')
"""The least that clients survive; sent for a workspace whose configuration was not read yet."""


class WorkspaceWish(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/workspaces`."""

    path: Annotated[str, msgspec.Meta(extra_json_schema={"minLength": 1})] = ""
    client_id: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": UUID_PATTERN})] = ""
    yolo: bool = False
    debug: bool = False
    data_dir: str = ""
    version: str = ""
    env: list[str] | None = None
    channels: list[str] | None = None


class Workspace(msgspec.Struct, frozen=True, kw_only=True):
    """One workspace. `config` is always an object with `providers` and `options.tui`, or the client crashes."""

    id: str
    path: str
    yolo: bool = False
    debug: bool = False
    data_dir: str = ""
    version: str = ""
    config: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/Config"})] = (
        msgspec.field(default_factory=lambda: EMPTY_CONFIG)
    )
    env: list[str] = []
    channels: list[str] = []
    skills: Annotated[
        msgspec.Raw,
        msgspec.Meta(extra_json_schema={"type": "array", "items": {"$ref": "#/components/schemas/SkillState"}}),
    ] = msgspec.field(default_factory=lambda: msgspec.Raw(b"[]"))


class CurrentSession(msgspec.Struct, frozen=True):
    """`POST …/current-session`: the session that the client looks at; empty for none."""

    session_id: str = ""


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of its workspace (`workspace.describe`); the supervisor passes `config` on unread."""

    data_dir: str
    config: msgspec.Raw
    skills: msgspec.Raw = msgspec.Raw(b"[]")


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `GET /v1/workers`. `state`: asleep starting ready degraded closing restarting failed.

    In `failed` with a `pid` the worker cannot store and answers what is only read.
    """

    id: str
    path: str
    state: str
    reason: str = ""
    pid: int | None = None
    generation: int = 0
    started_at: float | None = None  # Unix seconds
    restarts: int = 0
    rss_bytes: int = 0
    uss_bytes: int | None = None  # asked for with ?memory=full
    cpu_s: float = 0.0
    open_runs: int = 0
    clients: int = 0
    last_event_id: str = ""


class WorkspaceState(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of our own event `workspace_state` (P12)."""

    workspace_id: str
    state: str
    reason: str = ""
    pid: int | None = None
    generation: int = 0
