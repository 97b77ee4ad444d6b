"""Decide which workspace a folder is, from its mark, its inode and birth time, and what is at the other paths.

The mark is the file `workspace-id` in the data directory (protocol/workspace_mark.py). It is moved, copied and restored
together with the folder, so it alone cannot tell a moved folder from a copy. Inode and birth time can: a rename keeps
both, a copy or a restored backup has others. The device number is never stored, because it changes with a reboot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from protocol.ids import WorkspaceId


class Likeness(IntEnum):
    """How well two observations of a directory agree."""

    OTHER = 0
    MAYBE = 1  # the inode agrees, and a birth time is unknown: the number may have been used again
    SAME = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """One directory: its path, and what tells it from other directories that are or were at this path."""

    path: str  # resolved, absolute
    inode: int
    birth_ns: int = 0  # nanoseconds since the epoch, 0 where the file system does not know it

    def compare(self, other: "Identity") -> Likeness:
        """Return whether both are the same directory, whatever their paths are."""
        if self.inode != other.inode:
            return Likeness.OTHER
        if not self.birth_ns or not other.birth_ns:
            return Likeness.MAYBE
        return Likeness.SAME if self.birth_ns == other.birth_ns else Likeness.OTHER


@dataclass(frozen=True, slots=True)
class Folder:
    """What was seen at a path."""

    identity: Identity
    device: int  # compared only with another folder seen now
    data_dir: str
    data_key: tuple[int, int] | None = None  # device and inode of the data directory, if it exists
    mark: WorkspaceId | None = None
    has_database: bool = False
    is_writable: bool = True

    def is_also(self, other: "Folder") -> bool:
        """Return whether both are one directory at this moment (a bind mount, two spellings of a name)."""
        return (self.device, self.identity.inode) == (other.device, other.identity.inode)


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no directory at the path."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What is at the path cannot be found out now."""

    reason: str


Seen = Folder | Missing | Unreadable


@dataclass(frozen=True, slots=True)
class Known:
    """A registered workspace: where it is registered, and what is there now."""

    id: WorkspaceId
    identity: Identity
    now: Seen


@dataclass(frozen=True, slots=True)
class Same:
    """The folder is this registered workspace; `is_alias`: reached by another path than the registered one."""

    id: WorkspaceId
    is_alias: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """The folder is this registered workspace, and its path has changed. The registration `replaces` is dropped."""

    id: WorkspaceId
    replaces: WorkspaceId | None = None


@dataclass(frozen=True, slots=True)
class New:
    """The folder is not registered. It gets `id`, or a new id if this is None. `replaces` is dropped."""

    id: WorkspaceId | None = None
    replaces: WorkspaceId | None = None


@dataclass(frozen=True, slots=True)
class SharesData:
    """The folder's data directory belongs to this workspace, which has another folder."""

    id: WorkspaceId


@dataclass(frozen=True, slots=True)
class Undecidable:
    """The folder is this workspace, moved, or a copy of it: the registered path cannot be read."""

    id: WorkspaceId
    reason: str


Decision = Same | Moved | New | SharesData | Undecidable


def is_still(registered: Identity, workspace_id: WorkspaceId, seen: Folder) -> bool:
    """Return whether the folder at a registered path is still the registered one.

    Its mark says so, or its inode and birth time. Without a mark, a database is enough: it was restored from a backup
    that is older than the marks.
    """
    likeness = registered.compare(seen.identity)
    if seen.mark == workspace_id or likeness is Likeness.SAME:
        return True
    return likeness is Likeness.MAYBE or (seen.mark is None and seen.has_database)


def decide(found: Folder, known: Sequence[Known]) -> Decision:
    """Decide which workspace `found` is.

    `known` has every registration with the path, the inode or the id of the mark of `found`.
    """
    here = next((one for one in known if one.identity.path == found.identity.path), None)
    marked = next((one for one in known if one.id == found.mark), None)
    if here is not None and here is marked:
        return Same(here.id)
    if here is not None and here.identity.compare(found.identity) is Likeness.SAME:
        return Same(here.id)  # its data directory was removed, or replaced by that of another workspace
    if marked is not None:
        return _marked_elsewhere(found, marked, here)
    if found.mark is not None:
        if here is not None and here.identity.compare(found.identity) is Likeness.MAYBE:
            return Same(here.id)
        return New(found.mark, replaces=here.id if here else None)
    return _unmarked(found, known, here)


def _marked_elsewhere(found: Folder, marked: Known, here: Known | None) -> Decision:
    """Decide about a folder whose mark is that of a workspace with another path."""
    replaces = here.id if here is not None else None
    there = marked.now
    if isinstance(there, Missing):
        return Moved(marked.id, replaces)
    if isinstance(there, Unreadable):
        return Undecidable(marked.id, there.reason)
    if there.is_also(found):
        return Same(marked.id, is_alias=True)
    if found.data_key is not None and found.data_key == there.data_key:
        return SharesData(marked.id)
    found_is_original = marked.identity.compare(found.identity) is Likeness.SAME
    there_is_original = marked.identity.compare(there.identity) is Likeness.SAME
    if found_is_original and not there_is_original:
        return Moved(marked.id, replaces)
    if there.mark != marked.id and not there_is_original:
        return Moved(marked.id, replaces)  # what is there was made anew
    # A copy. A mark alone never takes a workspace away from a folder that is still in its place.
    if here is not None and here.identity.compare(found.identity) is Likeness.MAYBE:
        return Same(here.id)
    return New(replaces=replaces)


def _unmarked(found: Folder, known: Sequence[Known], here: Known | None) -> Decision:
    """Decide about a folder without a mark."""
    if here is not None and is_still(here.identity, here.id, found):
        return Same(here.id)
    replaces = here.id if here is not None else None
    for other in known:
        if other is here:
            continue
        likeness = other.identity.compare(found.identity)
        there = other.now
        if isinstance(there, Folder) and there.is_also(found):
            return Same(other.id, is_alias=True)
        if likeness is Likeness.SAME:
            if isinstance(there, Unreadable):
                return Undecidable(other.id, there.reason)
            # A snapshot has the inodes and birth times of the original, which keeps its place.
            if isinstance(there, Missing) or other.identity.compare(there.identity) is not Likeness.SAME:
                return Moved(other.id, replaces)
        if likeness is Likeness.MAYBE and found.has_database and isinstance(there, Missing):
            return Moved(other.id, replaces)
    return New(replaces=replaces)
