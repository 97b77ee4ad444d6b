"""Which workspace a folder is: the cases one by one, as a table."""

import pytest

from protocol.ids import WorkspaceId
from supervisor.workspaces.recognition import (
    Decision,
    Folder,
    Identity,
    Known,
    Missing,
    Moved,
    New,
    Same,
    Seen,
    SharesData,
    Undecidable,
    Unreadable,
    decide,
    is_still,
)

W, V = WorkspaceId("w"), WorkspaceId("v")
FIRST, SECOND, THIRD, OLD = (1, 10), (2, 20), (3, 30), (1, 0)
"""Inode and birth time of three directories; the last is the first one, as a version without birth times stored it."""


def folder(
    path: str,
    key: tuple[int, int],
    mark: WorkspaceId | None = None,
    *,
    database: bool = False,
    device: int = 1,
    data: int | None = None,
) -> Folder:
    return Folder(
        identity=Identity(path, *key),
        device=device,
        data_dir=f"{path}/.bulkhead",
        data_key=None if data is None else (device, data),
        mark=mark,
        has_database=database,
    )


def known(workspace: WorkspaceId, path: str, key: tuple[int, int], now: Seen) -> Known:
    return Known(workspace, Identity(path, *key), now)


def here(workspace: WorkspaceId, key: tuple[int, int], found: Folder) -> Known:
    return known(workspace, found.identity.path, key, found)


GONE, HIDDEN = Missing(), Unreadable("Permission denied")
P_FIRST, P_THIRD = folder("/p", FIRST), folder("/p", THIRD)
P_FIRST_W, P_FIRST_V = folder("/p", FIRST, W), folder("/p", FIRST, V)
P_SECOND_W, P_SECOND_V = folder("/p", SECOND, W), folder("/p", SECOND, V)

CASES: list[tuple[str, Folder, list[Known], Decision]] = [
    ("used again", P_FIRST_W, [here(W, FIRST, P_FIRST_W)], Same(W)),
    ("restored from a backup in its place", P_SECOND_W, [here(W, FIRST, P_SECOND_W)], Same(W)),
    ("the row is of a version without birth times", P_FIRST, [here(W, OLD, P_FIRST)], Same(W)),
    ("git clean removed the data directory", P_FIRST, [here(W, FIRST, P_FIRST)], Same(W)),
    ("the data directory of another was copied in", P_FIRST_V, [here(W, FIRST, P_FIRST_V)], Same(W)),
    ("renamed", P_FIRST_W, [known(W, "/f", FIRST, GONE)], Moved(W)),
    ("moved to another file system", P_SECOND_W, [known(W, "/f", FIRST, GONE)], Moved(W)),
    ("renamed, and a link is in its place", P_FIRST_W, [known(W, "/f", FIRST, GONE)], Moved(W)),
    ("renamed, and cloned again in its place", P_FIRST_W, [known(W, "/f", FIRST, folder("/f", THIRD))], Moved(W)),
    ("renamed, and copied back", P_FIRST_W, [known(W, "/f", FIRST, folder("/f", THIRD, W))], Moved(W)),
    ("copied", P_SECOND_W, [known(W, "/f", FIRST, folder("/f", FIRST, W))], New()),
    ("copied, then the original lost its mark", P_SECOND_W, [known(W, "/f", FIRST, folder("/f", FIRST))], New()),
    ("both were restored", P_SECOND_W, [known(W, "/f", FIRST, folder("/f", THIRD, W))], New()),
    (
        "a snapshot has the inode and birth time of the original",
        folder("/p", FIRST, W, device=2),
        [known(W, "/f", FIRST, folder("/f", FIRST, W))],
        New(),
    ),
    ("a bind mount", P_FIRST_W, [known(W, "/f", FIRST, folder("/f", FIRST, W))], Same(W, is_alias=True)),
    ("the name in other letters", P_FIRST, [known(W, "/P", OLD, folder("/P", FIRST))], Same(W, is_alias=True)),
    ("the list of the server was lost", P_FIRST_W, [], New(W)),
    ("it came from another machine to a used path", P_SECOND_V, [here(W, FIRST, P_SECOND_V)], New(V, replaces=W)),
    ("deleted and made again", P_THIRD, [here(W, FIRST, P_THIRD)], New(replaces=W)),
    (
        "restored from a backup older than the marks",
        folder("/p", THIRD, database=True),
        [here(W, FIRST, folder("/p", THIRD, database=True))],
        Same(W),
    ),
    ("never seen", P_FIRST, [], New()),
    ("the inode number was used again", P_FIRST, [known(W, "/f", (1, 99), GONE)], New()),
    ("renamed, with its data elsewhere", P_FIRST, [known(W, "/f", FIRST, GONE)], Moved(W)),
    (
        "renamed, with its data elsewhere, and made again",
        P_FIRST,
        [known(W, "/f", FIRST, folder("/f", THIRD, W))],
        Moved(W),
    ),
    (
        "a snapshot without data",
        folder("/p", FIRST, device=2),
        [known(W, "/f", FIRST, folder("/f", FIRST, W))],
        New(),
    ),
    (
        "renamed since a version without birth times",
        folder("/p", FIRST, database=True),
        [known(W, "/f", OLD, GONE)],
        Moved(W),
    ),
    ("an inode number without a birth time", P_FIRST, [known(W, "/f", OLD, GONE)], New()),
    (
        "another workspace was moved over it",
        P_SECOND_V,
        [here(W, FIRST, P_SECOND_V), known(V, "/f", SECOND, GONE)],
        Moved(V, replaces=W),
    ),
    (
        "a copy of another workspace was put in its place",
        folder("/p", THIRD, V),
        [here(W, FIRST, folder("/p", THIRD, V)), known(V, "/f", SECOND, folder("/f", SECOND, V))],
        New(replaces=W),
    ),
    (
        "an id was written into a folder of another",
        P_SECOND_W,
        [here(V, SECOND, P_SECOND_W), known(W, "/f", FIRST, folder("/f", FIRST, W))],
        Same(V),
    ),
    ("the former path cannot be read", P_SECOND_W, [known(W, "/f", FIRST, HIDDEN)], Undecidable(W, HIDDEN.reason)),
    ("the same, with the data elsewhere", P_FIRST, [known(W, "/f", FIRST, HIDDEN)], Undecidable(W, HIDDEN.reason)),
    (
        "two folders with one data directory",
        folder("/p", SECOND, W, data=7),
        [known(W, "/f", FIRST, folder("/f", FIRST, W, data=7))],
        SharesData(W),
    ),
]


@pytest.mark.parametrize(("found", "registered", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_H06_the_workspace_of_a_folder(found: Folder, registered: list[Known], expected: Decision) -> None:
    assert decide(found, registered) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (folder("/p", FIRST), True),
        (folder("/p", SECOND, W), True),
        (folder("/p", SECOND, database=True), True),
        (folder("/p", SECOND), False),
        (folder("/p", SECOND, V, database=True), False),
        (folder("/p", FIRST, V), True),
    ],
)
def test_H05_whether_a_worker_may_start_at_a_registered_path(found: Folder, expected: bool) -> None:
    assert is_still(Identity("/p", *FIRST), W, found) is expected
