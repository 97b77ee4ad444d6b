"""The system prompt: who the agent is, where it works, and what the project's own context files say.

`gather` reads files and belongs into a thread; `compose` is pure. Both are called once per turn, so the prompt is
never older than the turn (W-35).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

CONTEXT_FILES = (
    "AGENTS.md",
    "CRUSH.md",
    "CRUSH.local.md",
    "CLAUDE.md",
    "CLAUDE.local.md",
    "GEMINI.md",
    ".cursorrules",
    ".github/copilot-instructions.md",
)
"""In this order, relative to the workspace; missing ones are skipped, and one file under two names counts once."""

FILE_MAX_BYTES = 64 * 1024
ALL_MAX_BYTES = 192 * 1024

RULES = """\
You are a coding agent that works in the user's workspace through tools.

- Do what was asked, all of it and nothing else. Keep going until it is done; ask only when you cannot go on.
- Read a file before you change it, and match its style. Make exact edits; do not rewrite what need not change.
- After a change, run the project's own checks when there are any, and repair what you broke.
- Never commit, push or publish unless the user says so. Never invent file names, commands or addresses: look them up.
- Help with defensive security only.
- Answer briefly and plainly. Refer to code as path:line."""

TASK_RULES = """\
You are an agent that another agent asked to find something out in the user's workspace. You have tools that read; you
change nothing and you cannot ask anybody.

- Look things up instead of guessing; follow what you find until the question is answered.
- Report only what was asked, briefly and exactly, with absolute paths and line numbers, quoting code where the words
  matter. Say what you could not find.
- Your last message is the whole report: nothing else of this conversation is read by anybody."""


@dataclass(frozen=True, slots=True)
class ContextFile:
    """One file that the prompt quotes, perhaps cut."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the prompt says of the place."""

    workspace: str
    is_git: bool
    today: date
    files: tuple[ContextFile, ...] = ()


def gather(workspace: Path, *, today: date, extra: Sequence[str] = ()) -> Surroundings:
    """Look at the workspace. `extra` are configured context paths. Unreadable files are skipped. Blocks."""
    files: list[ContextFile] = []
    seen: set[tuple[int, int]] = set()
    left = ALL_MAX_BYTES
    for name in (*CONTEXT_FILES, *extra):
        path = workspace / name
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen or not path.is_file():
                continue
            seen.add((status.st_dev, status.st_ino))
            with path.open("rb") as file:
                data = file.read(min(FILE_MAX_BYTES, left) + 1)
        except OSError:
            continue
        text = data[: min(FILE_MAX_BYTES, left)].decode(errors="replace").strip()
        if len(data) > min(FILE_MAX_BYTES, left):
            text += "\n[the rest of this file is left out: it is too long]"
        left = max(0, left - len(data))
        if text:
            files.append(ContextFile(name, text))
    return Surroundings(str(workspace), (workspace / ".git").exists(), today, tuple(files))


def compose(where: Surroundings, *, is_task: bool = False) -> str:
    """The system prompt; `is_task` for an agent that works for another one."""
    parts = [
        TASK_RULES if is_task else RULES,
        "<environment>\n"
        f"Working directory: {where.workspace}\n"
        f"Git repository: {'yes' if where.is_git else 'no'}\n"
        "Platform: linux\n"
        f"Today's date: {where.today.isoformat()}\n"
        "</environment>",
    ]
    if is_task:
        return "\n\n".join(parts)
    parts += [f'<context path="{file.path}">\n{file.text}\n</context>' for file in where.files]
    return "\n\n".join(parts)
