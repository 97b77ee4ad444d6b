"""Read the YAML head of a skill file, and list skills for the system prompt.

A skill is a file of instructions. Its head has the name, which is also that of the directory, and a description that
says when to use the skill. The model reads the file when it needs the skill.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal
from xml.sax.saxutils import escape

import msgspec

Source = Literal["system", "user", "project"]

FILE_NAME = "SKILL.md"
_NAME = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*")
_HEAD = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
HEAD_LENGTH_MAX = 64 * 1024  # characters
DEPTH_MAX = 20  # of nested YAML
_TOO_DEEP = f"the head is wrong: it is nested more than {DEPTH_MAX} levels deep"


class BadSkill(Exception):
    """The file is not a skill; the text says why."""


class FrontMatter(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """The head of the file; other keys are ignored."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    description: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    user_invocable: bool = False
    disable_model_invocation: bool = False
    license: str = ""
    compatibility: Annotated[str, msgspec.Meta(max_length=500)] = ""
    metadata: dict[str, Any] = {}


@dataclass(frozen=True)
class Skill:
    """One usable skill. `path` is its file."""

    name: str
    description: str
    path: str
    source: Source
    user_invocable: bool
    for_model: bool


def read_head(text: str, directory: str) -> FrontMatter:
    """Read the head of a skill file; `directory` is the name of its directory. Raises BadSkill."""
    match = _HEAD.match(text)
    if match is None:
        raise BadSkill("there is no head: the file must begin with `---`, YAML, and `---`")
    try:
        _check_plain(match[1])
        head = msgspec.yaml.decode(match[1].encode(), type=FrontMatter, strict=False)
    except BadSkill:
        raise
    except msgspec.ValidationError as error:
        raise BadSkill(f"the head is wrong: {error}") from None
    except Exception as error:  # the YAML library, imported only when needed, has its own exceptions
        raise BadSkill(f"the head is not YAML: {' '.join(str(error).split())[:200]}") from None
    if _NAME.fullmatch(head.name) is None:
        raise BadSkill(f"the name {head.name!r} must be letters and digits with single hyphens between them")
    if head.name.lower() != directory.lower():
        raise BadSkill(f"the name {head.name!r} must be that of its directory, {directory!r}")
    return head


def _check_plain(text: str) -> None:
    """Refuse aliases and deep nesting. Raises BadSkill, and exceptions of the YAML library.

    A few lines with aliases may mean billions of values, and deep nesting overflows the library's stack, which kills
    the process.
    """
    import yaml

    if len(text) > HEAD_LENGTH_MAX:
        raise BadSkill(f"the head is longer than {HEAD_LENGTH_MAX} characters")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.AliasEvent):
                raise BadSkill("the head is wrong: aliases (`*name`) are not supported; write the value itself")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH_MAX:
                raise BadSkill(_TOO_DEEP)
    except yaml.YAMLError:
        # Some versions of libyaml read ahead, so their own limit comes before the first event of the nested value.
        if _bracket_depth(text) > DEPTH_MAX:
            raise BadSkill(_TOO_DEEP) from None
        raise


def _bracket_depth(text: str) -> int:
    """Count how many brackets are open at once at most, quoted ones included: only good to explain a failure."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def note(skills: Sequence[Skill]) -> str:
    """Return the section of the system prompt that lists the skills; "" when the model may use none."""
    lines = []
    for skill in skills:
        if skill.for_model:
            name, about = escape(skill.name), escape(" ".join(skill.description.split()))
            lines.append(f'<skill name="{name}" location="{escape(skill.path)}">{about}</skill>')
    if not lines:
        return ""
    return "\n".join(
        [
            "# Skills",
            "",
            "Instructions for particular tasks. When there is a skill for a task, first read its file with `view` and",
            "follow it; paths in it are relative to its directory. Read none that you do not need.",
            "",
            *lines,
        ]
    )


def name_of(path: str) -> str:
    """Return the name of a skill whose head cannot be read: that of its directory."""
    return PurePath(path).parent.name
