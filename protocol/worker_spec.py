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


EXIT_CLEAN = 0
EXIT_USAGE = 2
EXIT_LOCKED = 10  # another process owns the data directory (D08)
EXIT_STORAGE = 11  # the file cannot be opened, or writing it failed: recovery from the file is next
EXIT_SCHEMA = 12  # a newer schema than this code knows; the file is untouched
EXIT_DIRECTORY = 13  # the workspace's directory is gone or unreadable
EXIT_LEFT = 14  # shutdown overran its budget; the rest is recovery's
EXIT_CORRUPT = 15  # the file is damaged; it is untouched (D04)
EXIT_NO_LOCKS = 16  # the file system of the data directory knows no locks (D11)
EXIT_REASONS = {
    EXIT_LOCKED: "data directory is owned by another process",
    EXIT_STORAGE: "storage failed",
    EXIT_SCHEMA: "database has a newer schema",
    EXIT_DIRECTORY: "directory missing",
    EXIT_LEFT: "shutdown overran its budget",
    EXIT_CORRUPT: "corrupt",
    EXIT_NO_LOCKS: "data directory cannot be locked",
}
"""Exit codes of a worker that mean something, and the reason they give."""
HOPELESS = frozenset(EXIT_REASONS[code] for code in (EXIT_SCHEMA, EXIT_CORRUPT, EXIT_NO_LOCKS))
"""Reasons that another worker would find again: none is started until somebody asks for it."""
