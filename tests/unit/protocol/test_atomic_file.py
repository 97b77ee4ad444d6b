"""Atomic replacement of a file. Kills during a replacement: tests/unit/config/test_config_edit.py."""

import os
import stat
from pathlib import Path

import pytest

from protocol.base.atomic_file import replace_file


@pytest.mark.parametrize("umask", [0, 0o777])
def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "private", b"x")
        replace_file(tmp_path / "public", b"x", mode=0o644)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "public": 0o644}


def test_a_reader_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old", sync=True, sync_directory=True)
    with path.open("rb") as reader:
        replace_file(path, b"new", sync=True, sync_directory=True)
        assert (reader.read(), path.read_bytes()) == (b"old", b"new")
    assert os.listdir(tmp_path) == ["file"]


def test_an_old_temporary_file_is_removed_and_a_link_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / ".file.new").symlink_to(victim)
    replace_file(tmp_path / "file", b"new")
    assert (victim.read_bytes(), (tmp_path / "file").read_bytes()) == (b"mine", b"new")
    assert sorted(os.listdir(tmp_path)) == ["file", "victim"]


def test_a_failure_leaves_the_old_state_and_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.mkdir()  # cannot be replaced by a file
    with pytest.raises(IsADirectoryError):
        replace_file(path, b"new")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "other", b"new", sync=True)
    assert os.listdir(tmp_path) == ["file"]
