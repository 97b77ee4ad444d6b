"""Where a confined command may write and read: the choice of places, without the kernel."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker.config.schema import ToolSettings
from worker.tools.shell.sandbox import CACHES, Cage, Confinement, beside, places

LOG = logging.getLogger("bulkhead.test")


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    """A home with a workspace, a directory of ours, and another project with its data."""
    for name in ("home/w", "home/other/.bulkhead", "home/other/src", "run/bulkhead", "run/else", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "home/other/readme").touch()
    (tmp_path / "run/sock").touch()
    (tmp_path / "home/link").symlink_to(tmp_path / "run/bulkhead")
    return tmp_path


def found(ground: Path, *closed: str, **env: str):
    """The places of the workspace, with the system's temporary directory on the ground."""
    known = {"HOME": str(ground / "home"), "TMPDIR": str(ground / "tmp"), **env}
    return places(ground / "home/w", ground / "home/w/.bulkhead", [str(ground / name) for name in closed], env=known)


def test_the_workspace_temporary_directories_and_caches_may_be_written(ground):
    got = found(ground, "run/bulkhead", XDG_CACHE_HOME=str(ground / "cache"))
    assert got.temporary is None
    wanted = {ground / "home/w", ground / "tmp", ground / "cache", *(ground / "home" / name for name in CACHES)}
    assert wanted <= set(got.writable)
    assert ground / "home" not in got.writable
    assert not any((ground / "run").is_relative_to(path) for path in got.writable if path != Path("/tmp"))


@pytest.mark.parametrize("ours", ["tmp", "tmp/bulkhead-0"])
def test_a_temporary_directory_with_something_of_ours_is_replaced(ground, ours):
    (ground / ours).mkdir(exist_ok=True)
    got = found(ground, ours)
    assert ground / "tmp" not in got.writable
    assert got.temporary == ground / "home/w/.bulkhead/tmp", "in the workspace, which is writable"
    env = {"HOME": str(ground / "home"), "TMPDIR": str(ground / "tmp")}
    far = places(ground / "home/w", ground / "data", [str(ground / ours)], env=env)
    assert far.temporary == ground / "data/tmp"
    assert far.temporary in far.writable


def test_what_holds_the_workspace_is_not_closed(ground):
    assert found(ground, "home", "run/bulkhead").closed == (ground / "run/bulkhead",)


def test_configured_places_count_from_home_and_workspace(ground):
    home = ground / "home"
    env = {"HOME": str(home), "TMPDIR": str(ground / "tmp")}
    got = places(home / "w", home / "w/.bulkhead", [str(home / "x")], env=env, also=["~/a", "../b", "/opt/c", "~/x/y"])
    assert {home / "a", home / "b", Path("/opt/c")} <= set(got.writable)
    assert home / "x/y" not in got.writable, "it is closed"


def test_everything_beside_what_is_closed_may_be_read(ground):
    closed = (ground / "run/bulkhead", ground / "home/other/.bulkhead")
    allowed = list(beside(closed))
    for name in ("home/w", "home/other/src", "home/other/readme", "run/else", "run/sock", "tmp"):
        path = ground / name
        assert any(path.is_relative_to(root) for root in allowed), name
    for path in closed:
        assert not any(path.is_relative_to(root) or root.is_relative_to(path) for root in allowed)
    assert ground / "home/link" not in allowed, "a link is what it leads to"
    assert Path("/etc") in allowed or Path("/etc").is_symlink()
    assert list(beside(())) == [Path("/")]


def test_too_many_neighbours_are_an_error_and_not_a_hole(ground, monkeypatch):
    monkeypatch.setattr("worker.tools.shell.sandbox.ENTRIES_MAX", 3)
    with pytest.raises(OSError, match="more than 3"):
        list(beside((ground / "run/bulkhead",)))


def test_a_directory_that_cannot_be_listed_is_left_out(ground):
    if os.getuid() == 0:
        pytest.skip("root lists everything")
    (ground / "home/other").chmod(0)
    try:
        assert not any(path.is_relative_to(ground / "home/other") for path in beside((ground / "home/other/.b",)))
    finally:
        (ground / "home/other").chmod(0o700)


def test_a_command_cannot_widen_the_rules_by_a_link(ground):
    home = ground / "home"
    (ground / "big").mkdir()
    (home / "w/way").symlink_to(ground / "big")
    (home / "a").mkdir()
    (home / "a/b").symlink_to(ground / "big")
    (home / "hop").symlink_to(home / "a/b")
    (home / "mine").symlink_to(ground / "big/mine")
    env = {"HOME": str(home), "TMPDIR": str(ground / "tmp")}

    def writable(*also: str):
        closed = [str(ground / "run/bulkhead")]  # else all of it lies in a directory that everybody may write
        return places(home / "w", home / "w/.bulkhead", closed, env=env, also=also).writable

    assert ground / "big" not in writable("way"), "through the workspace"
    assert ground / "big" not in writable("~/a/b", "~/a"), "through another writable directory"
    assert ground / "big" not in writable("~/hop", "~/a"), "on a detour"
    assert ground / "big" not in writable("~/a/../w/way")
    assert ground / "big" in writable("~/a/b"), "nobody else can change that"
    assert ground / "big/mine" in writable("~/mine"), "a link of the user"
    assert home / "w" in writable("."), "the workspace itself"


def test_a_link_in_place_of_the_temporary_directory_is_refused(ground):
    (ground / "home/w/.bulkhead").mkdir()
    (ground / "home/w/.bulkhead/tmp").symlink_to(ground / "home")
    rules = found(ground, "tmp/x", "run/bulkhead")
    assert rules.temporary is not None
    assert ground / "home" not in rules.writable
    with pytest.raises(NotADirectoryError):
        Cage(rules, 3)


def test_a_link_in_place_of_the_data_directory_widens_nothing(ground):
    (ground / "home/w/.bulkhead").symlink_to(ground / "home")
    rules = found(ground, "tmp/x")
    assert not any(path.is_relative_to(ground / "home") for path in rules.writable if path.name == "tmp")


def test_what_is_writable_is_not_looked_into(ground):
    nested = ground / "home/w/nested/.bulkhead"
    nested.mkdir(parents=True)
    allowed = list(beside((nested,), (ground / "home/w",)))
    assert not any(path.is_relative_to(ground / "home/w") for path in allowed)
    assert any((ground / "home/other").is_relative_to(path) for path in allowed)


@pytest.mark.parametrize(
    ("operator", "file", "mode"),
    [("", "auto", "auto"), ("required", "off", "required"), ("off", "required", "off"), ("wrong", "off", "required")],
)
def test_the_operator_counts_over_the_files(ground, operator, file, mode):
    confinement = Confinement(ground, ground, (), LOG, operator={"BULKHEAD_CONFINE": operator} if operator else {})
    config = SimpleNamespace(tools=ToolSettings(confine=file))
    confinement.configure(config, {})  # type: ignore[arg-type]
    assert confinement.mode == mode
