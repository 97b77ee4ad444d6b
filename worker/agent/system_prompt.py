"""The system prompt: who the agent is, where it works, and what the context files of user and project say. Pure.

The texts stand in `prompts/`. The prompt is composed for each turn, from what is known then (W-35); while nothing of
that changes, it is the same to the letter, and the provider's cache holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

_PROMPTS = Path(__file__).parent / "prompts"
CODER = (_PROMPTS / "coder.md").read_text(encoding="utf-8").strip()
WEB = (_PROMPTS / "web.md").read_text(encoding="utf-8").strip()
TALK = (_PROMPTS / "talk.md").read_text(encoding="utf-8").strip()
"""For a very small model: any word more makes its answers worse, and it reads slowly."""
TASK = (_PROMPTS / "task.md").read_text(encoding="utf-8").strip()
"""Read at import, before the fork."""


@dataclass(frozen=True, slots=True)
class ContextFile:
    """One file that the prompt quotes, perhaps cut."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the prompt says of the place; `own` are the user's files for all projects."""

    workspace: str
    is_git: bool
    today: date
    files: tuple[ContextFile, ...] = ()
    own: tuple[ContextFile, ...] = ()


def compose(where: Surroundings, *, git: str = "", notes: Sequence[str] = (), attribution: str = "") -> str:
    """The system prompt of the agent that the user talks to.

    `git` is the state of the worktree at the beginning of the conversation. `notes` are paragraphs of the services.
    """
    parts = [CODER, *([attribution] if attribution else []), _environment(where, git), *notes]
    if where.files:
        parts.append("# What this project says to agents\n\n" + _quoted(where.files))
    if where.own:
        parts.append("# What the user says to agents, for all projects\n\n" + _quoted(where.own))
    return "\n\n".join(parts)


def compose_task(where: Surroundings, *, is_web: bool = False) -> str:
    """The system prompt of an agent that works for another one, in the workspace or on the web."""
    return f"{WEB if is_web else TASK}\n\n{_environment(where, '')}"


def attribution_note(trailer: str, has_generated_line: bool, model: str) -> str:
    """How commits and pull requests are to be marked (`options.attribution`); "" when not at all."""
    lines = []
    if trailer == "assisted-by":
        lines.append(f"- a commit message ends with the trailer `Assisted-by: {model} via Bulkhead`")
    elif trailer == "co-authored-by":
        lines.append("- a commit message ends with the trailer `Co-Authored-By: Bulkhead <bulkhead@localhost>`")
    if has_generated_line:
        lines.append("- the text of a pull request, and of a commit, has the line `Made with Bulkhead` before that")
    if not lines:
        return ""
    return "When the user asks for a commit or a pull request:\n" + "\n".join(lines)


def _environment(where: Surroundings, git: str) -> str:
    lines = [
        f"Working directory: {where.workspace}",
        f"Git repository: {'yes' if where.is_git else 'no'}",
        "Platform: linux",
        f"Today's date: {where.today.isoformat()}",
    ]
    if git:
        lines += ["", "Git, when this conversation began:", git]
    return "<environment>\n" + "\n".join(lines) + "\n</environment>"


def _quoted(files: Sequence[ContextFile]) -> str:
    return "\n\n".join(f'<context path="{file.path}">\n{file.text}\n</context>' for file in files)
