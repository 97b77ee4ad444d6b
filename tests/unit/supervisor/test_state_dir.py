"""The state directory: one owner, an identity that no copy shares, and files that are made again."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from protocol.ids import Epoch
from supervisor.owner_lock import RuntimeTaken
from supervisor.state_dir import StateDir


def opened(path: Path, seed: int = 1) -> StateDir:
    """Return the locked state directory at `path`."""
    state = StateDir(path)
    state.prepare()
    state.lock()
    state.load_identity(random.Random(seed))
    return state


def test_S22_a_second_owner_is_refused_with_the_address_of_the_first(tmp_path: Path) -> None:
    first = opened(tmp_path / "state")
    first.announce(Path("/run/x"), ["unix:///run/x.sock"])
    second = StateDir(tmp_path / "state")
    with pytest.raises(RuntimeTaken, match=rf"pid {os.getpid()} .*unix:///run/x.sock.*--state-dir"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_an_owner_on_another_machine_is_named_with_its_machine(tmp_path: Path) -> None:
    first = opened(tmp_path / "state")
    first.announce(Path("/run/x"), [])
    path = tmp_path / "state" / "supervisor.lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))
    with pytest.raises(RuntimeTaken, match="on the machine elsewhere"):
        StateDir(tmp_path / "state").lock()
    first.unlock()


def test_the_identity_is_made_once_and_follows_a_renamed_directory(tmp_path: Path) -> None:
    first = opened(tmp_path / "a")
    first.unlock()
    again = opened(tmp_path / "a", seed=2)
    assert again.identity == first.identity
    again.unlock()
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = opened(tmp_path / "b", seed=3)
    assert renamed.identity == first.identity
    renamed.unlock()


def test_a_copy_gets_an_identity_of_its_own(tmp_path: Path) -> None:
    first = opened(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = opened(tmp_path / "b", seed=2)
    assert second.identity != first.identity
    first.unlock()
    second.unlock()


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"id": "x"}', '{"id": "", "inode": 1}'])
def test_a_damaged_identity_is_replaced(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "identity").write_text(damaged)
    state = opened(tmp_path)
    assert len(state.identity) == 8
    assert json.loads((tmp_path / "identity").read_text())["id"] == state.identity
    state.unlock()


def test_what_was_removed_is_made_again_with_the_same_values(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state = opened(path)
    state.store_epoch(Epoch(7))
    state.announce(Path("/run/x"), ["unix:///a"])
    assert not state.restore()
    shutil.rmtree(path)
    assert state.restore()
    assert json.loads((path / "supervisor.lock").read_text())["listeners"] == ["unix:///a"]
    assert json.loads((path / "identity").read_text())["id"] == state.identity
    assert state.last_epoch() == 7
    with pytest.raises(RuntimeTaken):
        StateDir(path).lock()
    state.records.rmdir()
    assert state.restore()
    state.unlock()
    assert not state.restore()
    later = opened(path, seed=9)
    assert later.identity == state.identity
    later.unlock()


def test_a_directory_that_another_server_took_is_not_restored(tmp_path: Path) -> None:
    first = opened(tmp_path / "state")
    shutil.rmtree(tmp_path / "state")
    second = opened(tmp_path / "state", seed=2)
    with pytest.raises(RuntimeTaken):
        first.restore()
    second.unlock()
    assert first.restore()
    first.unlock()
