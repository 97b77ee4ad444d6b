"""Test the system prompt: its contents, their order, and that it does not change while its sources do not."""

import asyncio
import logging
import os
import random
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from protocol.base.clock import SystemClock
from protocol.limits import Limits
from worker.agent.git_status import EARLY_S, GitStatus, _may_filter
from worker.agent.project_context import FILE_MAX_BYTES, read_project_context
from worker.agent.system_prompt import ProjectContext, attribution_note, compose, compose_task
from worker.processes.child import ChildProcesses

DAY = date(2026, 1, 2)


def read(workspace: Path, *, extra: Sequence[str] = (), extra_global: Sequence[str] = ()) -> ProjectContext:
    env = {"HOME": str(workspace / "home"), "RULES": "rules"}
    return read_project_context(workspace, today=DAY, env=env, extra=extra, extra_global=extra_global)


def test_it_names_the_workspace_and_quotes_each_context_file_once(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "AGENTS.md").write_text("use tabs")
    (tmp_path / "CLAUDE.md").symlink_to(tmp_path / "AGENTS.md")
    (tmp_path / "CRUSH.md").write_bytes(b"\xff" + b"x" * (FILE_MAX_BYTES + 10))
    (tmp_path / "notes.md").write_text("own notes")
    text = compose(read(tmp_path, extra=["notes.md", "missing.md", ".cursorrules"]))
    assert str(tmp_path) in text
    assert "Git repository: yes" in text
    assert "2026-01-02" in text
    assert text.count("use tabs") == 1
    assert "too long" in text
    assert "own notes" in text


def test_without_context_files_there_is_no_context_section(tmp_path: Path) -> None:
    context = read(tmp_path)
    assert (context.is_git, context.files, context.own) == (False, (), ())
    assert "<context" not in compose(context)


def test_W_36_context_files_are_found_in_every_spelling_and_in_a_fixed_order(tmp_path: Path) -> None:
    rules = tmp_path / ".cursor" / "rules"
    (rules / "sub").mkdir(parents=True)
    for name in ("b.md", "a.md", "sub/c.md"):
        (rules / name).write_text(name)
    for name in ("agents.md", "gemini.md", "crush.md"):
        (tmp_path / name).write_text(name)
    names = [file.path for file in read(tmp_path).files]
    assert names == [
        ".cursor/rules/a.md",
        ".cursor/rules/b.md",
        ".cursor/rules/sub/c.md",
        "gemini.md",
        "crush.md",
        "agents.md",
    ]
    assert compose(read(tmp_path)) == compose(read(tmp_path))


def test_paths_of_the_user_are_expanded_and_quoted_apart_from_the_project(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".config" / "bulkhead").mkdir(parents=True)
    (home / ".config" / "bulkhead" / "AGENTS.md").write_text("always polite")
    (home / "mine.md").write_text("mine")
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "one.md").write_text("one")
    context = read(tmp_path, extra=["$RULES/one.md"], extra_global=["~/mine.md", "~/nothing.md"])
    assert [file.text for file in context.files] == ["one"]
    assert [file.text for file in context.own] == ["always polite", "mine"]
    text = compose(context)
    assert text.index("What this project says") < text.index("What the user says") < text.index("always polite")


@pytest.mark.parametrize("name", ["", "$NOT_SET", "${NOT_SET}", "$NOT_SET/", "$(pwd)", "$HOME'", "x" * 5000, "a\0b"])
def test_a_context_path_that_does_not_exist_reads_no_other_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("of the workspace")
    assert read(tmp_path, extra=[name], extra_global=[name]).files == ()


def test_a_context_file_whose_name_is_not_utf8_is_quoted(tmp_path: Path) -> None:
    (tmp_path / ".cursor" / "rules").mkdir(parents=True)
    (tmp_path / ".cursor" / "rules" / os.fsdecode(b"caf\xe9.md")).write_text("no milk")
    assert "no milk" in compose(read(tmp_path)).encode().decode()


def test_the_prompt_of_a_sub_agent_leaves_out_context_files(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text("use tabs")
    text = compose_task(read(tmp_path))
    assert str(tmp_path) in text
    assert "use tabs" not in text


@pytest.mark.parametrize(
    ("style", "line", "expected"),
    [
        ("assisted-by", True, ["Assisted-by: M", "Made with"]),
        ("co-authored-by", False, ["Co-Authored-By"]),
        ("none", False, []),
    ],
)
def test_the_attribution_of_commits_follows_the_configured_style(style: str, line: bool, expected: list[str]) -> None:
    note = attribution_note(style, line, "M")
    assert bool(note) == bool(expected)
    assert all(text in note for text in expected)


class _LaterClock(SystemClock):
    seconds = 0.0

    def now(self) -> float:
        return super().now() + self.seconds


async def test_a_git_status_that_was_read_long_before_the_first_turn_is_read_again(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q", "-b", "main")
    log, clock = logging.getLogger("bulkhead.test"), _LaterClock()
    children = ChildProcesses(limits=Limits(), clock=clock, log=log, random=random.Random(1))
    state = GitStatus(children, Limits(), log)
    env = {"PATH": os.environ["PATH"], "HOME": "/"}
    state.begin("s", tmp_path, env)
    clock.seconds += EARLY_S + 1
    (tmp_path / "new.txt").write_text("x")
    assert "new.txt" in await state.of("s", tmp_path, env)
    await state.close()
    await children.close()


def _git(workspace: Path, *args: str) -> None:
    names = {f"GIT_{role}_{field}": "t@t" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
    subprocess.run(
        ["git", *args], cwd=workspace, check=True, capture_output=True, env={**os.environ, **names, "HOME": "/"}
    )


async def test_the_git_status_is_read_once_per_session(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "a.txt").write_text("a")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "First commit")
    for number in range(25):
        (tmp_path / f"new{number:02}").write_text("x")

    log = logging.getLogger("bulkhead.test")
    children = ChildProcesses(limits=Limits(), clock=SystemClock(), log=log, random=random.Random(1))
    state = GitStatus(children, Limits(), log)
    env = {"PATH": os.environ["PATH"], "HOME": "/"}
    status = await state.of("s1", tmp_path, env)
    assert "Branch: main" in status
    assert "First commit" in status
    assert "new00" in status
    assert "and 5 more" in status
    (tmp_path / "a.txt").write_text("b")
    assert await state.of("s1", tmp_path, env) == status
    assert " M a.txt" in await state.of("s2", tmp_path, env)
    assert await GitStatus(children, Limits(), log).of("s1", tmp_path, {"PATH": "/nonexistent"}) == ""
    outside = tmp_path / ".git"  # the inside of a repository is not a worktree
    assert await GitStatus(children, Limits(), log).of("s1", outside, env) == ""
    await children.close()


async def test_the_git_status_can_be_begun_early_and_survives_a_cancelled_caller(
    tmp_path: Path,
) -> None:
    work, programs = tmp_path / "work", tmp_path / "programs"
    work.mkdir()
    programs.mkdir()
    _git(work, "init", "-q", "-b", "main")
    gate, ran = tmp_path / "gate", tmp_path / "ran"
    os.mkfifo(gate)
    program = programs / "git"
    program.write_text(
        f'#!/bin/sh\necho "$1" >>{ran}\n[ "$1" != config ] || cat {gate}\nPATH={os.environ["PATH"]}\nexec git "$@"\n'
    )
    program.chmod(0o755)
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": "/"}
    log = logging.getLogger("bulkhead.test")
    clock = _LaterClock()
    children = ChildProcesses(limits=Limits(), clock=clock, log=log, random=random.Random(1))
    state = GitStatus(children, Limits(), log)

    state.begin("s", work, env)
    writer = await asyncio.to_thread(open, gate, "w")  # returns when git has been started
    caller = asyncio.create_task(state.of("s", work, env))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    writer.close()
    assert "Branch: main" in await state.of("s", work, env)
    assert sorted(ran.read_text().split()) == ["config", "log", "status"]

    clock.seconds += EARLY_S + 1
    assert "Branch: main" in await state.of("s", work, env)
    assert len(ran.read_text().split()) == 3, "what a turn has used stays"

    state.begin("ended", work, env)
    (await asyncio.to_thread(open, gate, "w")).close()
    await state.close()
    await children.close()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("[core]\n\tbare = false\n", False),
        ('[filter "a"]\n\tclean = x\n', True),
        ("[core]\n[FILTER.a]\nclean = x\n", True),
        ("[include]\npath = x\n", True),
        ('[ includeIf "gitdir:x"]\npath = x\n', True),
        ("#" * 70_000, True),
    ],
)
def test_git_is_asked_about_filters_unless_a_plain_repository_has_none(
    tmp_path: Path, config: str, expected: bool
) -> None:
    work = tmp_path / "outer" / "work"
    (work / ".git").mkdir(parents=True)
    (work / ".git" / "config").write_text(config)
    assert _may_filter(work, {"HOME": "/", "GIT_AUTHOR_NAME": "x"}) is expected
    assert _may_filter(work / "below", {}) is expected


@pytest.mark.parametrize("kind", ["none", "file", "link", "outer", "worktree", "common", "pipe", "linked", "variable"])
def test_git_is_asked_about_filters_of_unusual_repositories(tmp_path: Path, kind: str) -> None:
    work = tmp_path / "outer" / "work"
    work.mkdir(parents=True)
    env: dict[str, str] = {}
    if kind not in ("none", "file", "link"):
        (work / ".git").mkdir()
        assert not _may_filter(work, {})
    match kind:
        case "file":
            (work / ".git").write_text("gitdir: ../elsewhere\n")
        case "link":
            (tmp_path / "elsewhere").mkdir()
            (work / ".git").symlink_to(tmp_path / "elsewhere")
        case "outer":  # git passes over the inner one, which has no HEAD
            (tmp_path / "outer" / ".git").mkdir()
            (tmp_path / "outer" / ".git" / "config").write_text('[filter "a"]\nclean = x\n')
        case "worktree":
            (work / ".git" / "config.worktree").write_text('[filter "a"]\nclean = x\n')
        case "common":
            (work / ".git" / "commondir").write_text("../elsewhere\n")
        case "pipe":
            os.mkfifo(work / ".git" / "config")
        case "linked":
            (tmp_path / "config").write_text("")
            (work / ".git" / "config").symlink_to(tmp_path / "config")
        case "variable":
            env["GIT_DIR"] = "elsewhere"
    assert _may_filter(work, env)


@pytest.mark.parametrize("kind", ["plain", "worktree", "submodule"])
async def test_reading_the_git_status_runs_no_program_that_the_repository_configures(tmp_path: Path, kind: str) -> None:
    other, work = tmp_path / "other", tmp_path / "work"
    for repository in (other, work):
        repository.mkdir()
        _git(repository, "init", "-q", "-b", "main")
        (repository / "a.txt").write_text("a")
        (repository / ".gitattributes").write_text("*.txt filter=eVil.One")
        _git(repository, "add", ".")
        _git(repository, "commit", "-q", "-m", "x" * 1000)
    if kind == "submodule":
        _git(work, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "sub")
        _git(work, "commit", "-q", "-m", "sub")
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $0 $@ >>{ran}\ncat\n")
    program.chmod(0o755)
    hook = work / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.symlink_to(program)
    for name in ("core.fsmonitor", "core.pager", "gpg.program", "filter.eVil.One.clean", "filter.eVil.One.process"):
        for repository in (work, *([work / "sub"] if kind == "submodule" else [])):
            _git(repository, "config", name, str(program))
    for name, value in {"filter.eVil.One.required": "true", "log.showSignature": "true", "color.ui": "always"}.items():
        _git(work, "config", name, value)
    if kind == "worktree":
        _git(work, "-c", "core.fsmonitor=false", "worktree", "add", "-q", "--no-checkout", str(tmp_path / "tree"))
        work = tmp_path / "tree"
    (work / "a.txt").write_text("b")  # of the same size: only the filter could find that the content differs
    (work / "new.txt").write_text("new")
    ran.unlink(missing_ok=True)

    log = logging.getLogger("bulkhead.test")
    children = ChildProcesses(limits=Limits(), clock=SystemClock(), log=log, random=random.Random(1))
    status = await GitStatus(children, Limits(), log).of("s", work, {"PATH": os.environ["PATH"], "HOME": "/"})
    await children.close()
    assert not ran.exists(), ran.read_text()
    assert "?? new.txt" in status
    assert "\x1b" not in status
    assert max(map(len, status.splitlines())) < 300
