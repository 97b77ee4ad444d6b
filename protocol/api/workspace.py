"""Workspaces as API v1 sends them, and the rows about workers of the operators' routes."""

from typing import Annotated

import msgspec

from protocol.ids import UUID_PATTERN

EMPTY_CONFIG = msgspec.Raw(b'{"providers":{},"options":{"tui":{}}}')
"""The minimum that clients accept; sent for a workspace whose configuration was not read yet."""


class CreateWorkspace(msgspec.Struct, frozen=True, kw_only=True):
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
    """One workspace. `config` is always an object with `providers` and `options.tui`; without them clients crash."""

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


class AdoptDirectory(msgspec.Struct, frozen=True):
    """`POST …/directory`: the absolute path of the directory that is the workspace's folder from now on."""

    path: Annotated[str, msgspec.Meta(extra_json_schema={"minLength": 1})] = ""


class CurrentSession(msgspec.Struct, frozen=True):
    """`POST …/current-session`: the session that the client shows; empty for none."""

    session_id: str = ""


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's description of its workspace (`workspace.describe`). The supervisor forwards `config` unread."""

    data_dir: str
    config: msgspec.Raw
    skills: msgspec.Raw = msgspec.Raw(b"[]")


class WorkerCrash(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a worker process that was not requested."""

    cause: str  # such as `signal 9`, `exit 1`, `hung`
    ended_at: float  # Unix seconds
    generation: int
    pid: int
    lifetime_s: float
    peak_rss_bytes: int = 0  # 0 when unknown
    last_lines: list[str] = []  # of the worker's log


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `GET /v1/workers`. `state`: asleep starting ready degraded closing restarting failed.

    In `failed` with a `pid` the worker cannot store; it answers requests that only read.
    """

    id: str
    path: str
    state: str
    reason: str = ""
    pid: int | None = None
    generation: int = 0
    started_at: float | None = None  # Unix seconds
    restarts: int = 0  # crashes since the server started
    rss_bytes: int = 0
    uss_bytes: int | None = None  # only with ?memory=full
    cpu_s: float = 0.0
    open_runs: int = 0
    clients: int = 0
    last_event_id: str = ""
    loop_lag_s: float = 0.0  # how late the worker's event loop was at its last heartbeat
    loop_lag_max_s: float = 0.0  # the largest of this process
    late_answers: int = 0  # answers to calls that had ended already, since the server started
    last_crashes: list[WorkerCrash] = []  # newest first; one at most in the list of all workers


class WorkspaceState(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the event `workspace_state`."""

    workspace_id: str
    state: str
    reason: str = ""
    pid: int | None = None
    generation: int = 0
