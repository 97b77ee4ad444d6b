"""One directory is one workspace, however it is spelled (H06)."""

import os
from pathlib import Path

import pytest

from protocol.errors import BadInput, Conflict
from supervisor.workspaces.identity import check, data_dir_for, resolve


def test_H06_two_paths_to_one_directory_are_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    there = resolve(str(tmp_path / "real"), ())
    assert resolve(str(tmp_path / "link" / ".." / "link"), ()) == there
    assert there.path == str(tmp_path / "real")


def test_relative_path_counts_from_the_clients_directory(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    assert resolve("project", ("A=b", f"PWD={tmp_path}")).path == str(tmp_path / "project")
    with pytest.raises(BadInput, match="absolute"):
        resolve("project", ())


@pytest.mark.parametrize("path", ["", "/nowhere/at/all", "/etc/passwd", "/etc/passwd/x", "/a\0b", "/" + "x" * 5000])
def test_what_is_no_directory_is_refused(path: str) -> None:
    with pytest.raises(BadInput):
        resolve(path, ())


def test_H05_missing_directory_is_a_clear_conflict(tmp_path: Path) -> None:
    known = resolve(str(tmp_path), ())
    check(known)
    tmp_path.rmdir()
    with pytest.raises(Conflict, match="missing") as gone:
        check(known)
    assert gone.value.code == "workspace_moved"


def test_H06_exchanged_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    known = resolve(str(tmp_path / "a"), ())
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").mkdir()
    with pytest.raises(Conflict, match="not the directory"):
        check(known)
    (tmp_path / "a").rmdir()
    (tmp_path / "a").symlink_to("b")  # back, but through a link: somebody retargets paths here
    with pytest.raises(Conflict):
        check(known)


def test_place_of_the_data(tmp_path: Path) -> None:
    here = resolve(str(tmp_path), ())
    fallback = Path("/state/x")
    assert data_dir_for(here, "", fallback) == f"{tmp_path}/.bulkhead"
    assert data_dir_for(here, "data/../d", fallback) == f"{tmp_path}/d"
    assert data_dir_for(here, "/abs", fallback) == "/abs"
    if os.getuid() != 0:
        tmp_path.chmod(0o500)
        assert data_dir_for(here, "", fallback) == "/state/x"
