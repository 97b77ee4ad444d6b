"""Compose the system prompt: instructions, environment, and the context files of user and project.

The instructions are in `prompts/`. The prompt is composed for each turn from the current state (W-35). While nothing
changes it is identical, so that the provider can cache it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

_PROMPTS = Path(__file__).parent / "prompts"
CODER = (_PROMPTS / "coder.md").read_text(encoding="utf-8").strip()
WEB = (_PROMPTS / "web.md").read_text(encoding="utf-8").strip()
TALK = (_PROMPTS / "talk.md").read_text(encoding="utf-8").strip()
"""For a very small model: each further word makes its answers worse, and it reads slowly."""
TASK = (_PROMPTS / "task.md").read_text(encoding="utf-8").strip()
"""Read at import, before the fork, so that workers share the texts."""


@dataclass(frozen=True, slots=True)
class ContextFile:
    """One file that the prompt quotes; `text` may be cut."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class ProjectContext:
    """The facts about the project for the prompt; `own` are the user's files for all projects."""

    workspace: str
    is_git: bool
    today: date
    files: tuple[ContextFile, ...] = ()
    own: tuple[ContextFile, ...] = ()


def compose(context: ProjectContext, *, git: str = "", notes: Sequence[str] = (), attribution: str = "") -> str:
    """Compose the system prompt of the agent that the user talks to.

    `git` is the state of the worktree when the conversation began. `notes` are paragraphs of the services.
    """
    parts = [CODER, *([attribution] if attribution else []), _environment(context, git), *notes]
    if context.files:
        parts.append("# What this project says to agents\n\n" + _quoted(context.files))
    if context.own:
        parts.append("# What the user says to agents, for all projects\n\n" + _quoted(context.own))
    return "\n\n".join(parts)


def compose_task(context: ProjectContext, *, is_web: bool = False) -> str:
    """Compose the system prompt of an agent that works for another one, in the workspace or on the web."""
    return f"{WEB if is_web else TASK}\n\n{_environment(context, '')}"


def attribution_note(trailer: str, has_generated_line: bool, model: str) -> str:
    """Say how to mark commits and pull requests (`options.attribution`); "" when they are not marked."""
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


def _environment(context: ProjectContext, git: str) -> str:
    lines = [
        f"Working directory: {context.workspace}",
        f"Git repository: {'yes' if context.is_git else 'no'}",
        "Platform: linux",
        f"Today's date: {context.today.isoformat()}",
    ]
    if git:
        lines += ["", "Git, when this conversation began:", git]
    return "<environment>\n" + "\n".join(lines) + "\n</environment>"


def _quoted(files: Sequence[ContextFile]) -> str:
    return "\n\n".join(f'<context path="{file.path}">\n{file.text}\n</context>' for file in files)
