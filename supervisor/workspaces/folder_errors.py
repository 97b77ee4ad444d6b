"""Make the errors about folders; each says which command or action helps."""

from protocol.errors import Conflict, NotFound
from supervisor.workspaces.recognition import Folder, Seen, SharesData, Undecidable, Unreadable
from supervisor.workspaces.workspace_table import Registration


def unknown(workspace_id: str) -> NotFound:
    """Return the error about an id that is not registered."""
    return NotFound(f"there is no workspace {workspace_id[:100]!r}; create it first", code="workspace_unknown")


def not_there(registration: Registration, seen: Seen) -> Conflict:
    """Return the error about a workspace whose registered path does not lead to its folder."""
    path, short_id = registration.identity.path, registration.id[:8]
    match seen:
        case Folder():
            text = (
                f"another directory is at {path} now; run `bulkhead run` there to begin a new workspace, "
                f"or `bulkhead adopt NEW-PATH --as {short_id}` if the folder was moved"
            )
        case Unreadable(reason):
            text = f"its directory {path} cannot be read ({reason})"
        case _:
            text = (
                f"its directory {path} is missing; bring it back, use it at its new path, or remove the workspace with "
                f"`bulkhead forget {short_id}`"
            )
    return Conflict(f"cannot use this workspace: {text}", code="workspace_moved")


def undecided(folder: Folder, decision: SharesData | Undecidable, other: Registration) -> Conflict:
    """Return the error about a folder that cannot be told from that of another workspace."""
    path, there, short_id = folder.identity.path, other.identity.path, other.id[:8]
    if isinstance(decision, SharesData):
        text = (
            f"its data directory {folder.data_dir} belongs to the workspace {short_id} at {there}; "
            "give one of them another data directory"
        )
    else:
        text = (
            f"it was moved from {there} or is a copy of it, and {there} cannot be read now ({decision.reason}); "
            f"`bulkhead adopt {path} --as {short_id}` if it was moved, else make {there} readable first"
        )
    return Conflict(f"cannot use {path}: {text}", code="workspace_moved")


def taken(path: str, other: Registration) -> Conflict:
    """Return the error about a folder that is a workspace already."""
    return Conflict(
        f"cannot move a workspace to {path}: it is the workspace {other.id[:8]}; remove that one first with "
        f"`bulkhead forget {other.id[:8]}`",
        code="workspace_moved",
    )


def still_there(path: str, registration: Registration) -> Conflict:
    """Return the error about a workspace whose folder is at its registered path."""
    old = registration.identity.path
    return Conflict(
        f"cannot move the workspace {registration.id[:8]} to {path}: its folder is still at {old}; move that folder, "
        f"or remove the workspace with `bulkhead forget {registration.id[:8]}` and use {path} as a new one",
        code="workspace_moved",
    )
