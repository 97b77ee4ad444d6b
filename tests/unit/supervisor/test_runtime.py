"""The runtime directory: private modes, one owner, the counter of supervisors."""

import json
import os
import random
import shutil
import stat
from pathlib import Path

import pytest

from supervisor.runtime import RuntimeDir, RuntimeRefused, RuntimeTaken, read_or_make_token


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_X04_files_are_private_even_with_an_open_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        runtime = RuntimeDir(tmp_path / "run" / "bulkhead")
        runtime.prepare()
        runtime.lock()
        runtime.next_epoch()
        read_or_make_token(runtime.token_file, random.Random(1))
    finally:
        os.umask(before)
    assert mode(runtime.path) == mode(runtime.workers) == 0o700
    assert {mode(path) for path in runtime.path.iterdir() if path.is_file()} == {0o600}
    runtime.unlock()


def test_a_directory_that_is_open_to_others_is_made_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    RuntimeDir(tmp_path).prepare()
    assert mode(tmp_path) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_X04_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(RuntimeRefused, match="12345"):
        RuntimeDir(tmp_path).prepare()


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(RuntimeRefused, match="not a directory"):
        RuntimeDir(tmp_path / "link").prepare()


def test_S06_a_second_owner_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    first, second = RuntimeDir(tmp_path), RuntimeDir(tmp_path)
    first.prepare()
    first.lock()
    first.announce(["unix:///a"])
    owner = json.loads((tmp_path / "supervisor.lock").read_text())
    assert owner["pid"] == os.getpid()
    assert owner["start_ticks"] > 0
    assert owner["listeners"] == ["unix:///a"]
    with pytest.raises(RuntimeTaken, match=f"pid {os.getpid()}.*bulkhead stop"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_the_epoch_counts_supervisors_across_restarts(tmp_path: Path) -> None:
    epochs = []
    for _ in range(3):
        runtime = RuntimeDir(tmp_path)
        runtime.prepare()
        runtime.lock()
        epochs.append(runtime.next_epoch())
        runtime.unlock()
    assert epochs == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_T07_a_directory_that_was_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "bulkhead"
    runtime = RuntimeDir(path)
    runtime.prepare()
    runtime.lock()
    for _ in range(3):
        epoch = runtime.next_epoch()
    runtime.announce(["unix:///a"])
    assert not runtime.restore(), "nothing is missing"
    descriptors = len(os.listdir("/proc/self/fd"))
    shutil.rmtree(path)
    assert runtime.restore()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert (mode(path), mode(runtime.workers)) == (0o700, 0o700)
    assert json.loads((path / "supervisor.lock").read_text())["listeners"] == ["unix:///a"]
    second = RuntimeDir(path)
    with pytest.raises(RuntimeTaken):
        second.lock()
    runtime.workers.rmdir()
    assert runtime.restore(), "only a part was missing"
    runtime.unlock()
    assert not runtime.restore(), "the lock was released"
    second.lock()
    assert second.next_epoch() == epoch + 1, "workers would refuse a smaller one"
    second.unlock()


def test_T07_a_directory_that_another_server_took_is_not_restored(tmp_path: Path) -> None:
    path = tmp_path / "bulkhead"
    first, second = RuntimeDir(path), RuntimeDir(path)
    first.prepare()
    first.lock()
    shutil.rmtree(path)
    second.prepare()
    second.lock()
    with pytest.raises(RuntimeTaken, match="owns"):
        first.restore()
    second.unlock()
    assert first.restore(), "the directory is free again"
    with pytest.raises(RuntimeTaken):
        second.lock()
    first.unlock()


def test_the_epoch_is_higher_than_that_of_the_state_directory(tmp_path: Path) -> None:
    runtime = RuntimeDir(tmp_path)
    runtime.prepare()
    runtime.lock()
    assert runtime.next_epoch(at_least=41) == 42
    assert runtime.next_epoch(at_least=3) == 43
    runtime.unlock()


def test_S23_the_times_of_all_files_are_set_to_now(tmp_path: Path) -> None:
    runtime = RuntimeDir(tmp_path / "run")
    runtime.prepare()
    runtime.lock()
    (runtime.workers / "w1.log").touch()
    (runtime.path / "gone.sock").symlink_to(tmp_path / "nowhere")
    paths = [runtime.path, *runtime.path.rglob("*")]
    for path in paths:
        os.utime(path, (1, 1), follow_symlinks=False)
    runtime.refresh()
    assert [path for path in paths if path.lstat().st_mtime < 1000] == []
    runtime.unlock()
    shutil.rmtree(runtime.path)
    runtime.refresh()


def test_the_token_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = read_or_make_token(path, random.Random(1))
    assert len(token) == 64
    assert read_or_make_token(path, random.Random(2)) == token


@pytest.mark.parametrize(("text", "bits", "hint"), [("a" * 40, 0o644, "chmod 600"), ("short", 0o600, "16 ASCII")])
def test_a_token_that_others_can_read_or_that_is_short_is_refused(
    tmp_path: Path, text: str, bits: int, hint: str
) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(bits)
    with pytest.raises(RuntimeRefused, match=hint):
        read_or_make_token(path, random.Random(1))
