"""What a hook says of a call, and what several of them say together (10.4). Pure.

A hook speaks by its exit code and, with 0, by a JSON object on its standard output; it may use Bulkhead's own words or
those of the `hookSpecificOutput` form. What nobody can read is no opinion: a broken hook must not stop the agent.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Decision = Literal["", "allow", "deny"]
EXIT_DENY = 2
EXIT_HALT = 49
TEXT_MAX = 30_000
"""Characters of a reason or a note: they go to the model."""


@dataclass(frozen=True)
class Answer:
    """One hook's opinion. `patch` replaces single arguments; `note` goes to the model with the tool's result."""

    decision: Decision = ""
    halt: bool = False
    reason: str = ""
    note: str = ""
    patch: Mapping[str, object] = field(default_factory=dict)

    @property
    def shown_decision(self) -> str:
        """As clients know it: they take a word for having no opinion, too."""
        return self.decision or "none"


@dataclass(frozen=True)
class Heard:
    """A hook and its answer."""

    name: str
    matcher: str
    answer: Answer

    def shown(self) -> dict[str, object]:
        """As clients see it in the metadata of a result."""
        return {
            "name": self.name,
            "matcher": self.matcher,
            "decision": self.answer.shown_decision,
            "halt": self.answer.halt,
            "reason": self.answer.reason,
            "input_rewrite": bool(self.answer.patch),
        }


def answer_of(code: int | None, stdout: str, stderr: str) -> Answer:
    """What a hook that ended with `code` meant; None is one that had to be ended."""
    match code:
        case 0:
            return _spoken(stdout)
        case 2:
            return Answer("deny", reason=stderr.strip()[:TEXT_MAX])
        case 49:
            return Answer("deny", halt=True, reason=stderr.strip()[:TEXT_MAX])
        case _:
            return Answer()


def _spoken(stdout: str) -> Answer:
    try:
        said = json.loads(stdout)
    except (ValueError, RecursionError):
        return Answer()
    if not isinstance(said, dict):
        return Answer()
    nested = said.get("hookSpecificOutput")
    other: dict[str, Any] = nested if isinstance(nested, dict) else {}
    decision = said.get("decision") or other.get("permissionDecision")
    patch = said.get("updated_input") or other.get("updatedInput")
    halt = said.get("halt") is True
    return Answer(
        decision="deny" if halt else decision if decision in ("allow", "deny") else "",
        halt=halt,
        reason=_text(said.get("reason") or other.get("permissionDecisionReason")),
        note=_text(said.get("context") or other.get("additionalContext")),
        patch=patch if isinstance(patch, dict) else {},
    )


def _text(value: object) -> str:
    if isinstance(value, list):
        value = "\n".join(item for item in value if isinstance(item, str))
    return value[:TEXT_MAX] if isinstance(value, str) else ""


def together(heard: Sequence[Heard]) -> Answer:
    """One answer from all, in the order of the configuration: a denial wins over an allowance, and that over silence.

    Later patches win over earlier ones; whoever is denied needs none.
    """
    answers = [one.answer for one in heard]
    decisions = {answer.decision for answer in answers}
    halt = any(answer.halt for answer in answers)
    decision: Decision = "deny" if halt or "deny" in decisions else "allow" if "allow" in decisions else ""
    patch: dict[str, object] = {}
    if decision != "deny":
        for answer in answers:
            patch.update(answer.patch)
    return Answer(
        decision,
        halt,
        reason="\n".join(answer.reason for answer in answers if answer.reason),
        note="\n".join(answer.note for answer in answers if answer.note),
        patch=patch,
    )
