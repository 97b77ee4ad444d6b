"""The system prompt: what it says of the place, in which order, and that it stays the same while nothing changes."""

import logging
import os
import random
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from protocol.base.clock import SystemClock
from protocol.limits import Limits
from worker.agent.git_status import GitStatus
from worker.agent.project_context import FILE_MAX_BYTES, read_project_context
from worker.agent.system_prompt import ProjectContext, attribution_note, compose, compose_task
from worker.processes.child import ChildProcesses

DAY = date(2026, 1, 2)


def look(workspace: Path, **more: object) -> ProjectContext:
    return read_project_context(workspace, today=DAY, env={"HOME": str(workspace / "home"), "RULES": "rules"}, **more)


def test_it_names_the_place_and_quotes_context_files_once(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "AGENTS.md").write_text("use tabs")
    (tmp_path / "CLAUDE.md").symlink_to(tmp_path / "AGENTS.md")
    (tmp_path / "CRUSH.md").write_bytes(b"\xff" + b"x" * (FILE_MAX_BYTES + 10))
    (tmp_path / "notes.md").write_text("own notes")
    text = compose(look(tmp_path, extra=["notes.md", "missing.md", ".cursorrules"]))
    assert str(tmp_path) in text
    assert "Git repository: yes" in text
    assert "2026-01-02" in text
    assert text.count("use tabs") == 1
    assert "too long" in text
    assert "own notes" in text


def test_nothing_to_say(tmp_path: Path) -> None:
    where = look(tmp_path)
    assert (where.is_git, where.files, where.own) == (False, (), ())
    assert "<context" not in compose(where)


def test_W_36_the_order_is_fixed_and_every_spelling_is_found(tmp_path: Path) -> None:
    rules = tmp_path / ".cursor" / "rules"
    (rules / "sub").mkdir(parents=True)
    for name in ("b.md", "a.md", "sub/c.md"):
        (rules / name).write_text(name)
    for name in ("agents.md", "gemini.md", "crush.md"):
        (tmp_path / name).write_text(name)
    names = [file.path for file in look(tmp_path).files]
    assert names == [
        ".cursor/rules/a.md",
        ".cursor/rules/b.md",
        ".cursor/rules/sub/c.md",
        "gemini.md",
        "crush.md",
        "agents.md",
    ]
    assert compose(look(tmp_path)) == compose(look(tmp_path))


def test_paths_of_the_user_are_expanded_and_told_apart(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".config" / "bulkhead").mkdir(parents=True)
    (home / ".config" / "bulkhead" / "AGENTS.md").write_text("always polite")
    (home / "mine.md").write_text("mine")
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "one.md").write_text("one")
    where = look(tmp_path, extra=["$RULES/one.md"], extra_global=["~/mine.md", "~/nothing.md"])
    assert [file.text for file in where.files] == ["one"]
    assert [file.text for file in where.own] == ["always polite", "mine"]
    text = compose(where)
    assert text.index("What this project says") < text.index("What the user says") < text.index("always polite")


@pytest.mark.parametrize("name", ["", "$NOT_SET", "${NOT_SET}", "$NOT_SET/", "$(pwd)", "$HOME'", "x" * 5000, "a\0b"])
def test_a_path_that_leads_nowhere_is_no_other_place(tmp_path: Path, name: Any) -> None:
    (tmp_path / "secret.txt").write_text("of the workspace")
    assert look(tmp_path, extra=[name], extra_global=[name]).files == ()


def test_a_name_that_is_no_text_can_be_told(tmp_path: Path) -> None:
    (tmp_path / ".cursor" / "rules").mkdir(parents=True)
    (tmp_path / ".cursor" / "rules" / os.fsdecode(b"caf\xe9.md")).write_text("no milk")
    assert "no milk" in compose(look(tmp_path)).encode().decode()


def test_an_agent_of_an_agent_is_told_less(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text("use tabs")
    text = compose_task(look(tmp_path))
    assert str(tmp_path) in text
    assert "use tabs" not in text


@pytest.mark.parametrize(
    ("style", "line", "said"),
    [
        ("assisted-by", True, ["Assisted-by: M", "Made with"]),
        ("co-authored-by", False, ["Co-Authored-By"]),
        ("none", False, []),
    ],
)
def test_how_commits_are_marked(style: str, line: bool, said: list[Any] | list[str]) -> None:
    note = attribution_note(style, line, "M")
    assert bool(note) == bool(said)
    assert all(text in note for text in said)


def _git(workspace: Path, *args: str) -> None:
    names = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(
        ["git", *args], cwd=workspace, check=True, capture_output=True, env={**os.environ, **names, "HOME": "/"}
    )


async def test_the_state_of_git_is_told_once_a_session(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "a.txt").write_text("a")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "First light")
    for number in range(25):
        (tmp_path / f"new{number:02}").write_text("x")

    log = logging.getLogger("bulkhead.test")
    children = ChildProcesses(limits=Limits(), clock=SystemClock(), log=log, random=random.Random(1))
    state = GitStatus(children, Limits(), log)
    env = {"PATH": os.environ["PATH"], "HOME": "/"}
    told = await state.of("s1", tmp_path, env)
    assert "Branch: main" in told
    assert "First light" in told
    assert "new00" in told
    assert "and 5 more" in told
    (tmp_path / "a.txt").write_text("b")
    assert await state.of("s1", tmp_path, env) == told
    assert " M a.txt" in await state.of("s2", tmp_path, env)
    assert await GitStatus(children, Limits(), log).of("s1", tmp_path, {"PATH": "/nonexistent"}) == ""
    outside = tmp_path / ".git"  # the inside of a repository is no worktree
    assert await GitStatus(children, Limits(), log).of("s1", outside, env) == ""
    await children.close()


@pytest.mark.parametrize("kind", ["plain", "worktree", "submodule"])
async def test_a_repository_can_run_nothing_by_its_configuration(tmp_path: Path, kind: str) -> None:
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
    (work / "a.txt").write_text("b")  # as long as before: only its filter could tell that it is another text
    (work / "new.txt").write_text("new")
    ran.unlink(missing_ok=True)

    async def main() -> str:
        log = logging.getLogger("bulkhead.test")
        children = ChildProcesses(limits=Limits(), clock=SystemClock(), log=log, random=random.Random(1))
        found = await GitStatus(children, Limits(), log).of("s", work, {"PATH": os.environ["PATH"], "HOME": "/"})
        await children.close()
        return found

    told = await main()
    assert not ran.exists(), ran.read_text()
    assert "?? new.txt" in told
    assert "\x1b" not in told
    assert max(map(len, told.splitlines())) < 300
