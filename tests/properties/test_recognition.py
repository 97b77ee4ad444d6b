"""Random histories of directories: each folder has one workspace, and a workspace has one folder (H06)."""

import copy
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.ids import WorkspaceId
from supervisor.workspaces.recognition import Folder, Identity, Known, Missing, Moved, New, Same, Seen, decide

PATHS = ("/a", "/b", "/c")


@dataclass
class Directory:
    inode: int
    birth_ns: int
    mark: WorkspaceId | None = None
    has_database: bool = False


@dataclass
class World:
    """A file system, and the registrations of a server."""

    knows_birth: bool
    reuses_inodes: bool
    at: dict[str, Directory] = field(default_factory=dict)
    backups: list[Directory] = field(default_factory=list)
    registered: dict[WorkspaceId, Identity] = field(default_factory=dict)
    made: int = 0
    ids: int = 0

    def directory(self) -> Directory:
        self.made += 1
        used = {one.inode for one in self.at.values()}
        inode = min({1, 2, 3, 4, 5} - used) if self.reuses_inodes else self.made
        return Directory(inode, self.made if self.knows_birth else 0)

    def copy_of(self, source: Directory) -> Directory:
        made = self.directory()
        made.mark, made.has_database = source.mark, source.has_database
        return made

    def seen(self, path: str) -> Seen:
        one = self.at.get(path)
        if one is None:
            return Missing()
        return Folder(
            identity=Identity(path, one.inode, one.birth_ns),
            device=1,
            data_dir=f"{path}/.bulkhead",
            data_key=(1, 1000 + one.inode) if one.mark or one.has_database else None,
            mark=one.mark,
            has_database=one.has_database,
        )

    def open(self, path: str) -> WorkspaceId:
        """Do what the server does when the directory is used; return its workspace."""
        folder = self.seen(path)
        assert isinstance(folder, Folder)
        known = [
            Known(one, identity, self.seen(identity.path))
            for one, identity in self.registered.items()
            if identity.path == path or one == folder.mark or identity.inode == folder.identity.inode
        ]
        match decide(folder, known):
            case Same(found, is_alias):
                assert not is_alias, "no directory has two paths here"
            case Moved(found, replaces):
                assert found != replaces
                self.registered.pop(replaces or found)
            case New(given_id, replaces):
                assert given_id is None or given_id not in self.registered
                self.ids += 1
                found = given_id or WorkspaceId(f"w{self.ids}")
                if replaces is not None:
                    del self.registered[replaces]
            case other:
                raise AssertionError(f"everything can be read here: {other}")
        self.registered[found] = folder.identity
        self.at[path].mark, self.at[path].has_database = found, True
        return found

    def check(self) -> None:
        paths = [identity.path for identity in self.registered.values()]
        assert len(paths) == len(set(paths)), "two workspaces have one path"
        world = copy.deepcopy(self)
        first = {path: world.open(path) for path in world.at}
        assert len(set(first.values())) == len(first), "two folders have one workspace"
        assert {path: world.open(path) for path in world.at} == first, "a second look gives the same answer"
        assert {path: world.at[path].mark for path in world.at} == first


STEPS = st.tuples(
    st.sampled_from(["make", "rename", "copy", "delete", "clean", "back up", "restore", "open", "open", "open"]),
    st.sampled_from(PATHS),
    st.sampled_from(PATHS),
)


@given(st.lists(STEPS, max_size=30), st.booleans(), st.booleans())
@settings(deadline=None)
def test_H06_no_two_folders_share_a_workspace(
    steps: list[tuple[str, str, str]], knows_birth: bool, reuses_inodes: bool
) -> None:
    world = World(knows_birth, reuses_inodes)
    for step, path, other in steps:
        perform(world, step, path, other)
        world.check()


@given(st.lists(STEPS.filter(lambda step: step[0] in ("make", "rename", "open")), max_size=30), st.booleans())
@settings(deadline=None)
def test_H06_a_folder_that_is_only_renamed_keeps_its_workspace(
    steps: list[tuple[str, str, str]], knows_birth: bool
) -> None:
    world, opened = World(knows_birth, reuses_inodes=False), dict[int, WorkspaceId]()
    for step, path, other in steps:
        perform(world, step, path, other)
        if step == "open" and (one := world.at.get(path)) is not None and one.mark is not None:
            assert opened.setdefault(one.inode, one.mark) == one.mark


@given(st.lists(STEPS, max_size=30), st.sampled_from(PATHS), st.sampled_from(PATHS))
@settings(deadline=None)
def test_H06_a_copy_never_takes_the_workspace_of_a_folder_in_its_place(
    steps: list[tuple[str, str, str]], path: str, target: str
) -> None:
    world = World(knows_birth=True, reuses_inodes=True)
    for step in steps:
        perform(world, *step)
    if path not in world.at or target == path:
        return
    original = world.open(path)
    world.at[target] = world.copy_of(world.at[path])
    assert world.open(target) != original
    assert world.open(path) == original


def perform(world: World, step: str, path: str, other: str) -> None:
    one = world.at.get(path)
    if step == "make" and one is None:
        world.at[path] = world.directory()
    if step == "restore" and one is None and world.backups:
        world.at[path] = world.copy_of(world.backups[-1])
    if one is None:
        return
    if step == "rename" and other not in world.at:
        world.at[other] = world.at.pop(path)
    elif step == "copy" and other not in world.at:
        world.at[other] = world.copy_of(one)
    elif step == "delete":
        del world.at[path]
    elif step == "clean":
        one.mark, one.has_database = None, False
    elif step == "back up":
        world.backups.append(copy.copy(one))
    elif step == "open":
        world.open(path)
