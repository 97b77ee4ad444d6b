"""Define the start parameters of a worker: one value, passed in a memory file, never on a command line."""

import msgspec

from protocol.ids import Generation, WorkspaceId
from protocol.limits import DEFAULT_LIMITS, Limits

MARKER = "BULKHEAD_WORKSPACE_ID"
"""The environment variable that marks all processes started by a worker, so that they can be found."""

MARKER_ROOM = 64
"""The longest value of the marker in bytes: the space that a zygote keeps for it in its environment."""


def marker_value(workspace_id: str, state_id: str) -> str:
    """Return the value of MARKER: the workspace and the state directory of its server.

    Servers with copies of one state directory have workspaces with equal ids, and must not end each other's processes.
    """
    return f"{workspace_id}@{state_id}" if state_id else workspace_id


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker needs to start."""

    workspace_id: WorkspaceId
    state_id: str = ""  # the identity of the server's state directory
    generation: Generation
    path: str  # the workspace's directory, resolved
    directory: tuple[int, int] | None = None  # inode and birth (ns, 0: unknown) of `path`; None for any
    data_dir: str  # absolute; the worker creates it, locks it and owns its content
    endpoint: str  # the supervisor's ROUTER socket, `ipc://…`
    token: str  # proves to the supervisor that it started this worker
    log_path: str  # standard output and error of the process
    log_level: str = "info"
    env: dict[str, str] = {}  # the complete environment of the worker; nothing is inherited
    skip_permissions: bool = False
    debug: bool = False
    default_model: str = ""  # `provider/model` from the server's configuration, "" for the workspace's own selection
    local_model: str = ""  # the Unix socket of the local model, "" if there is none
    closed: list[str] = []  # directories of the server that confined commands must not read
    limits: Limits = DEFAULT_LIMITS

    @property
    def marker(self) -> str:
        """The value of MARKER for the processes of this worker."""
        return marker_value(self.workspace_id, self.state_id)


def spec_to_bytes(spec: WorkerSpec) -> bytes:
    """Encode the spec for the memory file."""
    return msgspec.json.encode(spec)


def spec_from_bytes(data: bytes) -> WorkerSpec:
    """Decode a spec. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(data, type=WorkerSpec)
