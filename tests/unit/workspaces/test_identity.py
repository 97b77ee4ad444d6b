"""One directory is one workspace, however its path is written (H06)."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.errors import BadInput, Denied
from protocol.ids import WorkspaceId
from supervisor.workspaces.identity import (
    check_data_dir,
    data_dir_for,
    look,
    look_again,
    mark_folder,
    moved_data_dir,
    resolve,
)
from supervisor.workspaces.recognition import Folder, Identity, Likeness, Missing

ID = WorkspaceId("00000000-0000-4000-8000-0000000000a1")


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


def test_H05_a_missing_directory_and_a_link_in_its_place_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    registered = resolve(str(tmp_path / "a"), ())
    assert isinstance(look_again(registered, f"{tmp_path}/a/.bulkhead"), Folder)
    (tmp_path / "a").rename(tmp_path / "b")
    assert look_again(registered, f"{tmp_path}/a/.bulkhead") == Missing()
    (tmp_path / "a").symlink_to("b")
    assert look_again(registered, f"{tmp_path}/a/.bulkhead") == Missing()
    (tmp_path / "a").unlink()
    (tmp_path / "a").touch()
    assert look_again(registered, f"{tmp_path}/a/.bulkhead") == Missing()


def test_H06_a_directory_made_anew_has_another_identity_and_a_renamed_one_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = resolve(str(tmp_path / "a"), ())
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").mkdir()
    assert first.compare(resolve(str(tmp_path / "b"), ())) is not Likeness.OTHER
    assert first.compare(resolve(str(tmp_path / "a"), ())) is not Likeness.SAME


def test_a_folder_is_marked_once_and_never_made(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    folder = look(resolve(str(tmp_path / "a"), ()))
    assert (folder.mark, folder.data_key, folder.has_database) == (None, None, False)
    mark_folder(folder, folder.data_dir, ID)
    marked = look(folder.identity)
    assert marked.mark == ID
    assert (tmp_path / "a" / ".bulkhead" / ".gitignore").read_text() == "*\n"
    (tmp_path / "a").rename(tmp_path / "b")
    mark_folder(folder, folder.data_dir, ID)
    assert not (tmp_path / "a").exists()


def test_where_the_data_directory_is(tmp_path: Path) -> None:
    identity = resolve(str(tmp_path), ())
    fallback = Path("/state/x")
    for requested, expected in (("", f"{tmp_path}/.bulkhead"), ("data/../d", f"{tmp_path}/d"), ("/abs", "/abs")):
        folder = look(identity, requested)
        assert data_dir_for(folder, requested, fallback) == expected
        read_only = replace(folder, is_writable=False)
        assert data_dir_for(read_only, requested, fallback) == (expected if requested else "/state/x")


def test_a_data_directory_inside_the_folder_moves_with_it() -> None:
    old, new = Identity("/a", 1), Identity("/b/c", 1)
    assert moved_data_dir(old, new, "/a/.bulkhead") == "/b/c/.bulkhead"
    assert moved_data_dir(old, new, "/ab/.bulkhead") == "/ab/.bulkhead"
    assert moved_data_dir(old, new, "/elsewhere") == "/elsewhere"


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
