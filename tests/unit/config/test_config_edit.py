"""Changes to configuration files: what is kept, what is refused, concurrent writers."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from protocol.base.clock import SystemClock
from protocol.errors import BadInput, Unavailable
from worker.config import edit
from worker.config.edit import edit_file, file_of, names_of, remember_model, remove_key, set_key
from worker.config.files import Object


def put(path: Path, key: str, value: object) -> Object:
    return edit_file(path, lambda tree: set_key(tree, names_of(key), value), dict, SystemClock())


def test_a_new_file_is_private_and_indented(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "bulkhead.json"
    put(path, "options.tui.compact_mode", True)
    assert path.read_text() == '{\n  "options": {\n    "tui": {\n      "compact_mode": true\n    }\n  }\n}\n'
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(path.parent)) == ["bulkhead.json", "bulkhead.json.lock"]


def test_unknown_keys_stay_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "bulkhead.json"
    path.write_text('{"zeta": [1, 2.5], "own": {"b": "ü", "a": null}, "options": {"debug": true}}')
    path.chmod(0o644)
    put(path, "options.notifications", "bell")
    assert list(json.loads(path.read_text())) == ["zeta", "own", "options"]
    assert json.loads(path.read_text())["own"] == {"b": "ü", "a": None}
    assert '"ü"' in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_into_another_directory_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "b.json"
    real.parent.mkdir()
    real.write_text("{}")
    link = tmp_path / "bulkhead.json"
    link.symlink_to(real)
    put(link, "a", 1)
    assert link.is_symlink()
    assert json.loads(real.read_text()) == {"a": 1}


def test_a_change_that_the_check_refuses_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "bulkhead.json"
    path.write_text('{"a": 1}')

    def refuse(tree: Object) -> None:
        assert tree == {"a": 2}
        raise BadInput("cannot use it")

    with pytest.raises(BadInput):
        edit_file(path, lambda tree: set_key(tree, ["a"], 2), refuse, SystemClock())
    assert path.read_text() == '{"a": 1}'


@pytest.mark.parametrize("content", ["{broken", "[1]", "\xff"])
def test_a_file_that_is_not_a_json_object_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bulkhead.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInput) as refused:
        put(path, "a", 1)
    assert str(path) in refused.value.message
    assert path.read_bytes() == content.encode("latin-1")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bulkhead.json"
    path.write_text('{"a": 1}')

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(edit.os, "fsync", fail)
    with pytest.raises(Unavailable) as refused:
        put(path, "a", 2)
    assert refused.value.code == "storage_failed"
    assert path.read_text() == '{"a": 1}'
    assert sorted(os.listdir(tmp_path)) == ["bulkhead.json", "bulkhead.json.lock"]


_DIE = """
import os, signal, sys
from pathlib import Path
from protocol.base.clock import SystemClock
from worker.config import edit

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

step, path = sys.argv[1], Path(sys.argv[2])
if step == "written":
    edit.os.fsync = die
elif step == "replacing":
    Path.replace = die
elif step == "replaced":
    opened = os.open
    edit.os.open = lambda name, *rest: die() if name == path.parent else opened(name, *rest)
attempt = die if step == "tried" else dict
edit.edit_file(path, lambda tree: edit.set_key(tree, ["a"], 2), attempt, SystemClock())
"""


@pytest.mark.parametrize(
    ("step", "value"), [("tried", 1), ("written", 1), ("replacing", 1), ("replaced", 2)], ids=lambda value: str(value)
)
def test_a_kill_at_any_step_leaves_a_complete_file_and_no_lock(tmp_path: Path, step: str, value: int) -> None:
    path = tmp_path / "bulkhead.json"
    path.write_text('{"a": 1, "b": "kept"}')
    path.chmod(0o600)
    killed = subprocess.run([sys.executable, "-c", _DIE, step, str(path)], timeout=30, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"a": value, "b": "kept"}
    assert path.stat().st_mode & 0o777 == 0o600
    put(path, "a", 3)
    assert json.loads(path.read_text()) == {"a": 3, "b": "kept"}
    assert sorted(os.listdir(tmp_path)) == ["bulkhead.json", "bulkhead.json.lock"]


def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / "d" / "bulkhead.json"
    path.parent.mkdir()
    (path.parent / ".bulkhead.json.new").symlink_to(victim)
    put(path, "a", 1)
    assert victim.read_text() == "mine"
    assert json.loads(path.read_text()) == {"a": 1}


def test_the_wait_for_a_lock_of_another_process_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "LOCK_S", 0.1)
    path = tmp_path / "bulkhead.json"
    with (tmp_path / "bulkhead.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable) as refused:
            put(path, "a", 1)
    assert refused.value.code == "storage_busy"
    assert not path.exists()
    put(path, "a", 1)


def test_concurrent_writers_lose_no_change(tmp_path: Path) -> None:
    path = tmp_path / "bulkhead.json"
    writers = [threading.Thread(target=put, args=(path, f"k{n}", n)) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert json.loads(path.read_text()) == {f"k{n}": n for n in range(8)}


@pytest.mark.parametrize(
    ("key", "names"),
    [("a", ["a"]), ("a.b.c", ["a", "b", "c"]), (r"a\.b.c", ["a.b", "c"]), (r"a\\.b", ["a\\", "b"])],
)
def test_a_dotted_path_is_split_into_names(key: str, names: list[str]) -> None:
    assert names_of(key) == names


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b"])
def test_a_path_with_an_empty_name_is_refused(key: str) -> None:
    with pytest.raises(BadInput):
        names_of(key)


def test_set_key_makes_missing_objects_and_replaces_no_other_value() -> None:
    tree: Object = {"a": None, "l": [1], "s": "x"}
    set_key(tree, ["a", "b"], 1)
    assert tree["a"] == {"b": 1}
    for name in ("l", "s"):
        with pytest.raises(BadInput) as refused:
            set_key(tree, [name, "b"], 1)
        assert f"{name} is not an object" in refused.value.message


def test_remove_key_removes_one_key_and_ignores_missing_ones() -> None:
    tree: Object = {"a": {"b": 1, "c": 2}, "s": "x"}
    for names in (["a", "b"], ["a", "b"], ["s", "t"], ["none", "x"]):
        remove_key(tree, names)
    assert tree == {"a": {"c": 2}, "s": "x"}


def test_recent_models_are_the_last_five_without_duplicates() -> None:
    tree: Object = {}
    for name in ("a", "b", "c", "d", "e", "f", "c"):
        remember_model(tree, "large", {"model": name, "provider": "p"})
    recent = tree["recent_models"]
    assert isinstance(recent, dict)
    assert [model["model"] for model in recent["large"]] == ["c", "f", "e", "d", "b"]


def test_each_scope_has_its_file(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    assert file_of(1, data_dir, {}) == data_dir / "bulkhead.json"
    assert file_of(0, data_dir, {"HOME": "/h"}) == Path("/h/.local/share/bulkhead/bulkhead.json")
    assert file_of(7, data_dir, {"HOME": "/h", "XDG_DATA_HOME": "/x"}) == Path("/x/bulkhead/bulkhead.json")
    with pytest.raises(BadInput):
        file_of(0, data_dir, {})
