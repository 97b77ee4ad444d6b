"""What a worker is told at its birth: one value, handed over in a memory file, never on a command line."""

import msgspec

from protocol.ids import Generation, WorkspaceId
from protocol.limits import DEFAULT_LIMITS, Limits

MARKER = "BULKHEAD_WORKSPACE_ID"
"""The environment variable by which everything that a worker started is found again."""


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a worker needs to know to live without asking."""

    workspace_id: WorkspaceId
    generation: Generation
    path: str  # the workspace's directory, resolved
    directory: tuple[int, int] | None = None  # device and inode that `path` must have; None for any
    data_dir: str  # absolute; the worker creates it, takes its lock and owns what is in it
    endpoint: str  # the supervisor's ROUTER, `ipc://…`
    token: str  # proves to the supervisor that this is the worker it started
    log_path: str  # standard output and error of the process
    log_level: str = "info"
    env: dict[str, str] = {}  # the whole environment of the worker, nothing is inherited
    skip_permissions: bool = False
    debug: bool = False
    default_model: str = ""  # `provider/model` from the server's configuration, "" for the workspace's own choice
    local_model: str = ""  # the Unix socket of the local model, "" when there is none
    closed: list[str] = []  # directories of ours that no confined command may read
    limits: Limits = DEFAULT_LIMITS


def spec_to_bytes(spec: WorkerSpec) -> bytes:
    """The spec as it is written to the memory file."""
    return msgspec.json.encode(spec)


def spec_from_bytes(data: bytes) -> WorkerSpec:
    """Read a spec. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(data, type=WorkerSpec)
