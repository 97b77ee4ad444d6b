"""Commands that read by their words, on a prepared file system: links, programs, repositories (W-39, W-41)."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.harness.tool_bench import ToolBench, bench
from tests.support.run_coroutine import run
from worker.permissions.rules import Rules

SECRET = "the secret of another user"


def _run(workspace: Path, story, **more):
    async def main():
        async with bench(workspace, rules=Rules(), **more) as place:
            await story(place)

    run(main())


def git(directory: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def workspace(tmp_path):
    """A workspace beside which lies something that is none of its business."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text(SECRET)
    made = tmp_path / "w"
    made.mkdir()
    (made / "a.txt").write_text("hello\n")
    return made


@pytest.fixture
def repository(workspace):
    git(workspace, "init", "-q")
    git(workspace, "add", "a.txt")
    git(workspace, "commit", "-qm", "first")
    (workspace / "a.txt").write_text("changed\n")
    return workspace


async def _is_asked(place: ToolBench, command: str) -> bool:
    result = await place.bash(command)
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
def test_W_41_no_form_of_a_reading_command_follows_a_link_out(workspace, command):
    (workspace / "link.txt").symlink_to("../outside/secret.txt")
    (workspace / "link").symlink_to("../outside")
    for name in ("d", "e"):
        (workspace / name).mkdir()
    (workspace / "d" / "x").symlink_to("../../outside/secret.txt")
    (workspace / "e" / "x").write_text("x")

    async def story(place):
        assert await _is_asked(place, command)

    _run(workspace, story)


def test_patterns_that_stay_inside_need_no_permission(workspace):
    (workspace / "link.txt").symlink_to("a.txt")

    async def story(place):
        for command in ("cat *.txt", "ls *", "grep -n hello [a]*", "diff a.txt link.txt"):
            assert not await _is_asked(place, command), command

    _run(workspace, story)


def test_a_file_that_is_called_like_an_option_is_asked_about(workspace):
    (workspace / "-Rx").write_text("")

    async def story(place):
        assert await _is_asked(place, "grep x *")
        assert not await _is_asked(place, "cat *.txt")

    _run(workspace, story)


def test_a_program_of_the_workspace_is_not_taken_for_the_systems(workspace):
    (workspace / "bin").mkdir()
    evil = workspace / "bin" / "wc"
    evil.write_text("#!/bin/sh\necho ran >ran\n")
    evil.chmod(0o755)

    async def story(place):
        assert await _is_asked(place, "wc a.txt")
        assert not (workspace / "ran").exists()
        assert not await _is_asked(place, "cat a.txt")

    for path in (str(workspace / "bin"), "bin", str(workspace) + "/../w/bin"):
        _run(workspace, story, env={"PATH": f"{path}:{os.environ['PATH']}", "HOME": str(workspace)})


def test_git_commands_that_read_need_no_permission(repository):
    git(repository, "remote", "add", "origin", "https://example.org/x.git")

    async def story(place):
        for command in ("git status", "git diff", "git log -p", "git describe --always --dirty", "git grep -n changed"):
            result = await place.bash(command)
            assert not result.is_error, (command, result.content)

    _run(repository, story)


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
@pytest.mark.parametrize("place_of_key", ["config", "included"])
def test_W_39_git_runs_no_program_that_the_repository_names(repository, key, attribute, command, place_of_key):
    program = repository / "evil.sh"
    program.write_text(f"#!/bin/sh\necho ran >{repository}/ran\n")
    program.chmod(0o755)
    (repository / ".gitattributes").write_text(f"{attribute}\n")
    if place_of_key == "config":
        git(repository, "config", key, str(program))
    else:
        git(repository, "config", "-f", "more", key, str(program))
        git(repository, "config", "include.path", "../more")

    async def story(place):
        assert await _is_asked(place, command)
        assert not (repository / "ran").exists()

    _run(repository, story)


def test_W_39_git_runs_no_hook_when_it_refreshes_the_index(repository):
    hook = repository / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho ran >{repository}/ran\n")
    hook.chmod(0o755)

    async def story(place):
        for command in ("git status", "git diff", "git describe --always --dirty"):
            assert await _is_asked(place, command), command
        assert not (repository / "ran").exists()

    _run(repository, story)


def test_W_39_a_repository_that_came_with_the_files_runs_nothing(repository):
    """A bare one in a directory can be committed like any other files, and its configuration names its programs."""
    inner = repository / "docs"
    git(repository, "init", "-q", "--bare", "docs")
    git(inner, "config", "core.bare", "false")
    git(inner, "config", "core.worktree", str(repository))
    git(inner, "config", "core.fsmonitor", f"echo ran >{repository}/ran; false")

    async def story(place):
        result = await place.bash("git status", working_dir="docs")
        assert result.stop_turn
        assert not (repository / "ran").exists()
        assert not await _is_asked(place, "git status")

    _run(repository, story)


def test_W_41_git_shows_no_worktree_elsewhere(repository, tmp_path):
    git(repository, "config", "core.worktree", str(tmp_path / "outside"))

    async def story(place):
        for command in ("git ls-files --others", "git status", "git diff"):
            assert await _is_asked(place, command), command

    _run(repository, story)


def test_W_39_git_runs_nothing_for_a_submodule_either(repository, tmp_path):
    git(tmp_path, "clone", "-q", str(repository), "other")
    git(repository, "submodule", "add", "-q", str(tmp_path / "other"), "sub")
    (repository / "sub" / "a.txt").write_text("changed as well\n")

    async def harmless(place):
        assert not await _is_asked(place, "git status")

    async def evil(place):
        assert await _is_asked(place, "git status")
        assert await _is_asked(place, "git diff")
        assert not (repository / "ran").exists()
        assert not await _is_asked(place, "git log --oneline")

    _run(repository, harmless)
    git(repository / "sub", "config", "core.fsmonitor", f"echo ran >{repository}/ran; false")
    _run(repository, evil)
