"""One directory is one workspace, however its path is written (H06)."""

import os
from pathlib import Path

import pytest

from protocol.errors import BadInput, Conflict, Denied
from supervisor.workspaces.identity import check, check_data_dir, data_dir_for, resolve


def test_H06_two_paths_to_one_directory_have_one_identity(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real = resolve(str(tmp_path / "real"), ())
    assert resolve(str(tmp_path / "link" / ".." / "link"), ()) == real
    assert real.path == str(tmp_path / "real")


def test_a_relative_path_is_resolved_against_the_directory_of_the_client(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    assert resolve("project", ("A=b", f"PWD={tmp_path}")).path == str(tmp_path / "project")
    with pytest.raises(BadInput, match="absolute"):
        resolve("project", ())


@pytest.mark.parametrize("path", ["", "/nowhere/at/all", "/etc/passwd", "/etc/passwd/x", "/a\0b", "/" + "x" * 5000])
def test_a_path_that_is_not_a_directory_is_refused(path: str) -> None:
    with pytest.raises(BadInput):
        resolve(path, ())


def test_H05_a_missing_directory_is_a_conflict(tmp_path: Path) -> None:
    registered = resolve(str(tmp_path), ())
    check(registered)
    tmp_path.rmdir()
    with pytest.raises(Conflict, match="missing") as refused:
        check(registered)
    assert refused.value.code == "workspace_moved"


def test_H06_another_directory_under_the_same_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    registered = resolve(str(tmp_path / "a"), ())
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").mkdir()
    with pytest.raises(Conflict, match="not the directory"):
        check(registered)
    (tmp_path / "a").rmdir()
    (tmp_path / "a").symlink_to("b")  # the same path, but a link now
    with pytest.raises(Conflict):
        check(registered)


def test_where_the_data_directory_is(tmp_path: Path) -> None:
    identity = resolve(str(tmp_path), ())
    fallback = Path("/state/x")
    assert data_dir_for(identity, "", fallback) == f"{tmp_path}/.bulkhead"
    assert data_dir_for(identity, "data/../d", fallback) == f"{tmp_path}/d"
    assert data_dir_for(identity, "/abs", fallback) == "/abs"
    if os.getuid() != 0:
        tmp_path.chmod(0o500)
        assert data_dir_for(identity, "", fallback) == "/state/x"


def test_a_data_directory_that_exists_or_can_be_made_is_accepted(tmp_path: Path) -> None:
    identity = resolve(str(tmp_path), ())
    (tmp_path / "linked").symlink_to(tmp_path)
    for directory in ("d", "d/e/f", str(tmp_path), f"{tmp_path}/linked/x", "../x"):
        check_data_dir(identity, directory)
    assert sorted(os.listdir(tmp_path)) == ["linked"], "no directory was made"


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    identity = resolve(str(tmp_path), ())
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "loop").symlink_to("loop")
    for directory in ("a\0b", "file", "file/below", "nowhere", "nowhere/below", "loop/x", "x" * 300, "d/" + "x" * 300):
        with pytest.raises(BadInput, match="data"):
            check_data_dir(identity, directory)
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.getuid() != 0:  # root may write everywhere
        with pytest.raises(Denied, match="may not write"):
            check_data_dir(identity, "closed/d")
