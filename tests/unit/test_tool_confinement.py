"""Where a confined command may write and read: the choice of places, without the kernel."""

import os
from pathlib import Path

import pytest

from worker.tools.confinement import CACHES, beside, places


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
    assert got.temporary == ground / "home/w/.bulkhead/tmp"
    assert got.temporary in got.writable


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
    monkeypatch.setattr("worker.tools.confinement.ENTRIES_MAX", 3)
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
