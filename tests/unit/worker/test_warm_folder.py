"""Temporary directories of killed processes are removed by the next one; those in use are not."""

import os
from pathlib import Path

import pytest

from worker.zygote.warm_folder import PREFIX, remove_left, warm_folder


async def test_a_left_directory_is_removed_and_one_in_use_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, linked, other = tmp_path / f"{PREFIX}left", tmp_path / f"{PREFIX}link", tmp_path / "other"
    (left / "deep").mkdir(parents=True)
    other.mkdir()
    linked.symlink_to("other")
    with warm_folder() as first:
        assert not left.exists()
        with warm_folder() as second:
            assert first.is_dir()
            assert second.is_dir()
        assert first.is_dir()
        assert not second.exists()
    assert sorted(os.listdir(tmp_path)) == [linked.name, "other"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
async def test_a_directory_of_another_user_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / f"{PREFIX}foreign"
    foreign.mkdir()
    os.chown(foreign, 65534, 65534)
    remove_left(tmp_path)
    assert foreign.is_dir()
