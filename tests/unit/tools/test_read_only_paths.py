"""Test read-only commands on a prepared file system with links, programs and repositories (W-39, W-41)."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.harness.tool_bench import ToolBench, bench
from worker.permissions.rules import Rules

SECRET = "the secret of another user"


def git(directory: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Create a workspace beside a directory with a secret."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text(SECRET)
    workspace = tmp_path / "w"
    workspace.mkdir()
    (workspace / "a.txt").write_text("hello\n")
    return workspace


@pytest.fixture
def repository(workspace: Path) -> Path:
    """Create a git repository in the workspace, with one changed file."""
    git(workspace, "init", "-q")
    git(workspace, "add", "a.txt")
    git(workspace, "commit", "-qm", "first")
    (workspace / "a.txt").write_text("changed\n")
    return workspace


async def _needs_permission(tools: ToolBench, command: str) -> bool:
    result = await tools.bash(command)
    assert SECRET not in result.content, command
    return result.stop_turn


@pytest.mark.parametrize(
    "command",
    [
        "cat link.txt",
        "cat *.txt",
        "cat [l]*",
        "cat d/*",
        "cat */secret.txt",
        "grep -r . *",
        "grep -f link.txt a.txt",
        "grep -vflink.txt a.txt",
        "grep -v --file=link.txt a.txt",
        "diff --from-file=link.txt a.txt",
        "diff d e",
        "diff -r d e",
        "ls link",
    ],
)
async def test_W_41_no_read_only_command_follows_a_link_out_of_the_workspace(workspace: Path, command: str) -> None:
    (workspace / "link.txt").symlink_to("../outside/secret.txt")
    (workspace / "link").symlink_to("../outside")
    for name in ("d", "e"):
        (workspace / name).mkdir()
    (workspace / "d" / "x").symlink_to("../../outside/secret.txt")
    (workspace / "e" / "x").write_text("x")

    async with bench(workspace, rules=Rules()) as tools:
        assert await _needs_permission(tools, command)


async def test_patterns_that_match_only_inside_the_workspace_need_no_permission(workspace: Path) -> None:
    (workspace / "link.txt").symlink_to("a.txt")

    async with bench(workspace, rules=Rules()) as tools:
        for command in ("cat *.txt", "ls *", "grep -n hello [a]*", "diff a.txt link.txt"):
            assert not await _needs_permission(tools, command), command


async def test_a_pattern_that_matches_a_file_named_like_an_option_needs_permission(workspace: Path) -> None:
    (workspace / "-Rx").write_text("")

    async with bench(workspace, rules=Rules()) as tools:
        assert await _needs_permission(tools, "grep x *")
        assert not await _needs_permission(tools, "cat *.txt")


async def test_a_program_in_the_workspace_is_not_taken_for_the_one_of_the_system(workspace: Path) -> None:
    (workspace / "bin").mkdir()
    evil = workspace / "bin" / "wc"
    evil.write_text("#!/bin/sh\necho ran >ran\n")
    evil.chmod(0o755)

    for path in (str(workspace / "bin"), "bin", str(workspace) + "/../w/bin"):
        env = {"PATH": f"{path}:{os.environ['PATH']}", "HOME": str(workspace)}
        async with bench(workspace, rules=Rules(), env=env) as tools:
            assert await _needs_permission(tools, "wc a.txt")
            assert not (workspace / "ran").exists()
            assert not await _needs_permission(tools, "cat a.txt")


async def test_read_only_git_commands_need_no_permission(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "https://example.org/x.git")

    async with bench(repository, rules=Rules()) as tools:
        for command in ("git status", "git diff", "git log -p", "git describe --always --dirty", "git grep -n changed"):
            result = await tools.bash(command)
            assert not result.is_error, (command, result.content)


@pytest.mark.parametrize(
    ("key", "attribute", "command"),
    [
        ("core.fsmonitor", "", "git status"),
        ("core.fsmonitor", "", "git diff"),
        ("core.fsmonitor", "", "git blame a.txt"),
        ("diff.external", "", "git diff"),
        ("diff.evil.command", "*.txt diff=evil", "git diff"),
        ("diff.evil.textconv", "*.txt diff=evil", "git log -p"),
        ("filter.evil.clean", "*.txt filter=evil", "git status"),
        ("gpg.program", "", "git log --format=%G?"),
    ],
)
@pytest.mark.parametrize("key_location", ["config", "included"])
async def test_W_39_git_runs_no_program_that_the_repository_configures(
    repository: Path, key: str, attribute: str, command: str, key_location: str
) -> None:
    program = repository / "evil.sh"
    program.write_text(f"#!/bin/sh\necho ran >{repository}/ran\n")
    program.chmod(0o755)
    (repository / ".gitattributes").write_text(f"{attribute}\n")
    if key_location == "config":
        git(repository, "config", key, str(program))
    else:
        git(repository, "config", "-f", "more", key, str(program))
        git(repository, "config", "include.path", "../more")

    async with bench(repository, rules=Rules()) as tools:
        assert await _needs_permission(tools, command)
        assert not (repository / "ran").exists()


async def test_W_39_git_runs_no_hook_when_it_refreshes_the_index(repository: Path) -> None:
    hook = repository / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho ran >{repository}/ran\n")
    hook.chmod(0o755)

    async with bench(repository, rules=Rules()) as tools:
        for command in ("git status", "git diff", "git describe --always --dirty"):
            assert await _needs_permission(tools, command), command
        assert not (repository / "ran").exists()


async def test_W_39_git_runs_no_program_of_a_repository_committed_with_the_files(repository: Path) -> None:
    """A bare repository can be committed like any other files, and its configuration can name programs."""
    inner = repository / "docs"
    git(repository, "init", "-q", "--bare", "docs")
    git(inner, "config", "core.bare", "false")
    git(inner, "config", "core.worktree", str(repository))
    git(inner, "config", "core.fsmonitor", f"echo ran >{repository}/ran; false")

    async with bench(repository, rules=Rules()) as tools:
        result = await tools.bash("git status", working_dir="docs")
        assert result.stop_turn
        assert not (repository / "ran").exists()
        assert not await _needs_permission(tools, "git status")


async def test_W_41_git_shows_no_worktree_outside_the_workspace(repository: Path, tmp_path: Path) -> None:
    git(repository, "config", "core.worktree", str(tmp_path / "outside"))

    async with bench(repository, rules=Rules()) as tools:
        for command in ("git ls-files --others", "git status", "git diff"):
            assert await _needs_permission(tools, command), command


async def test_W_39_git_runs_no_program_that_a_submodule_configures(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(repository), "other")
    git(repository, "submodule", "add", "-q", str(tmp_path / "other"), "sub")
    (repository / "sub" / "a.txt").write_text("changed as well\n")

    async with bench(repository, rules=Rules()) as tools:
        assert not await _needs_permission(tools, "git status")
    git(repository / "sub", "config", "core.fsmonitor", f"echo ran >{repository}/ran; false")
    async with bench(repository, rules=Rules()) as tools:
        assert await _needs_permission(tools, "git status")
        assert await _needs_permission(tools, "git diff")
        assert not (repository / "ran").exists()
        assert not await _needs_permission(tools, "git log --oneline")
