"""One directory is one workspace, however it is spelled (H06)."""

import os
from pathlib import Path

import pytest

from protocol.errors import BadInput, Conflict, Denied
from supervisor.workspaces.identity import check, check_data_dir, data_dir_for, resolve


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
    (tmp_path / "a").symlink_to("b")  # the same path, but a link now
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


def test_data_goes_where_a_directory_is_or_can_be_made(tmp_path: Path) -> None:
    here = resolve(str(tmp_path), ())
    (tmp_path / "linked").symlink_to(tmp_path)
    for asked in ("d", "d/e/f", str(tmp_path), f"{tmp_path}/linked/x", "../x"):
        check_data_dir(here, asked)
    assert sorted(os.listdir(tmp_path)) == ["linked"], "nothing was made"


def test_data_does_not_go_where_no_directory_can_be(tmp_path: Path) -> None:
    here = resolve(str(tmp_path), ())
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    for asked in ("a\0b", "file", "file/below", "nowhere", "nowhere/below", "loop/x", "x" * 300, "d/" + "x" * 300):
        with pytest.raises(BadInput, match="data"):
            check_data_dir(here, asked)
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.getuid() != 0:  # root may write everywhere
        with pytest.raises(Denied, match="may not write"):
            check_data_dir(here, "closed/d")
