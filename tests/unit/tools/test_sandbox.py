"""Test the choice of the paths that a confined command may write and read, without the kernel."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker.config.schema import ToolSettings
from worker.tools.shell.sandbox import CACHES, Sandbox, SandboxPaths, SandboxPolicy, all_except, sandbox_paths

LOG = logging.getLogger("bulkhead.test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Create a home with a workspace, a directory of the server, and another project with its data."""
    for name in ("home/w", "home/other/.bulkhead", "home/other/src", "run/bulkhead", "run/else", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "home/other/readme").touch()
    (tmp_path / "run/sock").touch()
    (tmp_path / "home/link").symlink_to(tmp_path / "run/bulkhead")
    return tmp_path


def choose(root: Path, *closed: str, **changes: str) -> SandboxPaths:
    """Choose the paths for the workspace, with a temporary directory of the test."""
    env = {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), **changes}
    return sandbox_paths(root / "home/w", root / "home/w/.bulkhead", [str(root / name) for name in closed], env=env)


def test_the_workspace_temporary_directories_and_caches_may_be_written(root: Path) -> None:
    paths = choose(root, "run/bulkhead", XDG_CACHE_HOME=str(root / "cache"))
    assert paths.temporary is None
    expected = {root / "home/w", root / "tmp", root / "cache", *(root / "home" / name for name in CACHES)}
    assert expected <= set(paths.writable)
    assert root / "home" not in paths.writable
    assert not any((root / "run").is_relative_to(path) for path in paths.writable if path != Path("/tmp"))


@pytest.mark.parametrize("closed", ["tmp", "tmp/bulkhead-0"])
def test_a_temporary_directory_with_a_closed_one_is_replaced(root: Path, closed: str) -> None:
    (root / closed).mkdir(exist_ok=True)
    paths = choose(root, closed)
    assert root / "tmp" not in paths.writable
    assert paths.temporary == root / "home/w/.bulkhead/tmp", "it is inside the workspace, which is writable"
    env = {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp")}
    outside = sandbox_paths(root / "home/w", root / "data", [str(root / closed)], env=env)
    assert outside.temporary == root / "data/tmp"
    assert outside.temporary in outside.writable


def test_a_closed_path_that_contains_the_workspace_is_ignored(root: Path) -> None:
    assert choose(root, "home", "run/bulkhead").closed == (root / "run/bulkhead",)


def test_configured_paths_are_relative_to_the_home_and_to_the_workspace(root: Path) -> None:
    home = root / "home"
    env = {"HOME": str(home), "TMPDIR": str(root / "tmp")}
    paths = sandbox_paths(
        home / "w", home / "w/.bulkhead", [str(home / "x")], env=env, extra=["~/a", "../b", "/opt/c", "~/x/y"]
    )
    assert {home / "a", home / "b", Path("/opt/c")} <= set(paths.writable)
    assert home / "x/y" not in paths.writable, "it is inside a closed directory"


def test_everything_but_the_closed_paths_may_be_read(root: Path) -> None:
    closed = (root / "run/bulkhead", root / "home/other/.bulkhead")
    allowed = list(all_except(closed))
    for name in ("home/w", "home/other/src", "home/other/readme", "run/else", "run/sock", "tmp"):
        path = root / name
        assert any(path.is_relative_to(root) for root in allowed), name
    for path in closed:
        assert not any(path.is_relative_to(root) or root.is_relative_to(path) for root in allowed)
    assert root / "home/link" not in allowed, "a link to a closed directory is not allowed"
    assert Path("/etc") in allowed or Path("/etc").is_symlink()
    assert list(all_except(())) == [Path("/")]


def test_too_many_entries_beside_a_closed_path_are_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.tools.shell.sandbox.ENTRIES_MAX", 3)
    with pytest.raises(OSError, match="more than 3"):
        list(all_except((root / "run/bulkhead",)))


def test_a_directory_that_cannot_be_listed_is_left_out(root: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root lists everything")
    (root / "home/other").chmod(0)
    try:
        assert not any(path.is_relative_to(root / "home/other") for path in all_except((root / "home/other/.b",)))
    finally:
        (root / "home/other").chmod(0o700)


def test_a_command_cannot_extend_the_rules_with_a_link(root: Path) -> None:
    home = root / "home"
    (root / "big").mkdir()
    (home / "w/link").symlink_to(root / "big")
    (home / "a").mkdir()
    (home / "a/b").symlink_to(root / "big")
    (home / "indirect").symlink_to(home / "a/b")
    (home / "own").symlink_to(root / "big/own")
    env = {"HOME": str(home), "TMPDIR": str(root / "tmp")}

    def writable(*extra: str) -> Sequence[Path]:
        closed = [str(root / "run/bulkhead")]  # otherwise /tmp, which contains all these paths, is writable
        return sandbox_paths(home / "w", home / "w/.bulkhead", closed, env=env, extra=extra).writable

    assert root / "big" not in writable("link"), "a link in the workspace"
    assert root / "big" not in writable("~/a/b", "~/a"), "a link in another writable directory"
    assert root / "big" not in writable("~/indirect", "~/a"), "a link to a link in a writable directory"
    assert root / "big" not in writable("~/a/../w/link")
    assert root / "big" in writable("~/a/b"), "only the user can change this link"
    assert root / "big/own" in writable("~/own"), "a link of the user"
    assert home / "w" in writable("."), "the workspace itself"


def test_a_link_in_place_of_the_temporary_directory_is_refused(root: Path) -> None:
    (root / "home/w/.bulkhead").mkdir()
    (root / "home/w/.bulkhead/tmp").symlink_to(root / "home")
    rules = choose(root, "tmp/x", "run/bulkhead")
    assert rules.temporary is not None
    assert root / "home" not in rules.writable
    with pytest.raises(NotADirectoryError):
        Sandbox(rules, 3)


def test_a_link_in_place_of_the_data_directory_allows_nothing_more(root: Path) -> None:
    (root / "home/w/.bulkhead").symlink_to(root / "home")
    rules = choose(root, "tmp/x")
    assert not any(path.is_relative_to(root / "home") for path in rules.writable if path.name == "tmp")


def test_the_contents_of_writable_directories_are_not_listed(root: Path) -> None:
    nested = root / "home/w/nested/.bulkhead"
    nested.mkdir(parents=True)
    allowed = list(all_except((nested,), (root / "home/w",)))
    assert not any(path.is_relative_to(root / "home/w") for path in allowed)
    assert any((root / "home/other").is_relative_to(path) for path in allowed)


@pytest.mark.parametrize(
    ("operator", "file", "mode"),
    [("", "auto", "auto"), ("required", "off", "required"), ("off", "required", "off"), ("wrong", "off", "required")],
)
def test_the_setting_of_the_operator_overrides_the_files(root: Path, operator: str, file: str, mode: str) -> None:
    policy = SandboxPolicy(root, root, (), LOG, operator={"BULKHEAD_CONFINE": operator} if operator else {})
    config = SimpleNamespace(tools=ToolSettings(confine=file))
    policy.configure(config, {})  # type: ignore[arg-type]
    assert policy.mode == mode
