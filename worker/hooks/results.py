"""What a hook says of a call, and what several of them say together (10.4). Pure.

A hook speaks by its exit code and, with 0, by a JSON object on its standard output; it may use Bulkhead's own words or
those of the `hookSpecificOutput` form. What nobody can read is no opinion: a broken hook must not stop the agent.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

HookDecision = Literal["", "allow", "deny"]
EXIT_DENY = 2
EXIT_HALT = 49
TEXT_MAX = 30_000
"""Characters of a reason or a note: they go to the model."""


@dataclass(frozen=True)
class HookAnswer:
    """One hook's opinion. `patch` replaces single arguments; `note` goes to the model with the tool's result."""

    decision: HookDecision = ""
    halt: bool = False
    reason: str = ""
    note: str = ""
    patch: Mapping[str, object] = field(default_factory=dict)

    @property
    def shown_decision(self) -> str:
        """As clients know it: they take a word for having no opinion, too."""
        return self.decision or "none"


@dataclass(frozen=True)
class HookOutput:
    """A hook and its answer."""

    name: str
    matcher: str
    answer: HookAnswer

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


def answer_of(code: int | None, stdout: str, stderr: str) -> HookAnswer:
    """What a hook that ended with `code` meant; None is one that had to be ended."""
    if code == 0:
        return _spoken(stdout)
    if code in (EXIT_DENY, EXIT_HALT):
        return HookAnswer("deny", halt=code == EXIT_HALT, reason=stderr.strip()[:TEXT_MAX])
    return HookAnswer()


def _spoken(stdout: str) -> HookAnswer:
    try:
        said = json.loads(stdout)
    except (ValueError, RecursionError):
        return HookAnswer()
    if not isinstance(said, dict):
        return HookAnswer()
    nested = said.get("hookSpecificOutput")
    other: dict[str, Any] = nested if isinstance(nested, dict) else {}
    decision = said.get("decision") or other.get("permissionDecision")
    patch = said.get("updated_input") or other.get("updatedInput")
    halt = said.get("halt") is True
    return HookAnswer(
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


def together(heard: Sequence[HookOutput]) -> HookAnswer:
    """One answer from all, in the order of the configuration: a denial wins over an allowance, and that over silence.

    Later patches win over earlier ones; whoever is denied needs none.
    """
    answers = [one.answer for one in heard]
    decisions = {answer.decision for answer in answers}
    halt = any(answer.halt for answer in answers)
    decision: HookDecision = "deny" if halt or "deny" in decisions else "allow" if "allow" in decisions else ""
    patch: dict[str, object] = {}
    if decision != "deny":
        for answer in answers:
            patch.update(answer.patch)
    return HookAnswer(
        decision,
        halt,
        reason="\n".join(answer.reason for answer in answers if answer.reason),
        note="\n".join(answer.note for answer in answers if answer.note),
        patch=patch,
    )
