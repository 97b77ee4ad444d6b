"""Read the result of a hook, and combine the results of several.

A hook answers by its exit code and, with 0, by a JSON object on its standard output, with Bulkhead's own keys or those
of the `hookSpecificOutput` form. Output that cannot be read is no decision: a broken hook must not stop the agent.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

HookDecision = Literal["", "allow", "deny"]
EXIT_DENY = 2
EXIT_HALT = 49  # deny, and end the turn
TEXT_MAX = 30_000
"""Characters of a reason or a note, which are sent to the model."""


@dataclass(frozen=True)
class HookAnswer:
    """The answer of one hook. `patch` replaces single arguments; `note` goes to the model with the tool's result."""

    decision: HookDecision = ""
    halt: bool = False
    reason: str = ""
    note: str = ""
    patch: Mapping[str, object] = field(default_factory=dict)

    @property
    def shown_decision(self) -> str:
        """Return the decision as clients expect it, with a word for none."""
        return self.decision or "none"


@dataclass(frozen=True)
class HookOutput:
    """The answer of a hook, with the hook's name and matcher."""

    name: str
    matcher: str
    answer: HookAnswer

    def as_metadata(self) -> dict[str, object]:
        """Return it as clients see it in the metadata of a result."""
        return {
            "name": self.name,
            "matcher": self.matcher,
            "decision": self.answer.shown_decision,
            "halt": self.answer.halt,
            "reason": self.answer.reason,
            "input_rewrite": bool(self.answer.patch),
        }


def answer_of(code: int | None, stdout: str, stderr: str) -> HookAnswer:
    """Return the answer of a hook that exited with `code`; None means that it was killed."""
    if code == 0:
        return _parse(stdout)
    if code in (EXIT_DENY, EXIT_HALT):
        return HookAnswer("deny", halt=code == EXIT_HALT, reason=stderr.strip()[:TEXT_MAX])
    return HookAnswer()


def _parse(stdout: str) -> HookAnswer:
    try:
        answer = json.loads(stdout)
    except (ValueError, RecursionError):
        return HookAnswer()
    if not isinstance(answer, dict):
        return HookAnswer()
    nested = answer.get("hookSpecificOutput")
    specific: dict[str, Any] = nested if isinstance(nested, dict) else {}
    decision = answer.get("decision") or specific.get("permissionDecision")
    patch = answer.get("updated_input") or specific.get("updatedInput")
    halt = answer.get("halt") is True
    return HookAnswer(
        decision="deny" if halt else decision if decision in ("allow", "deny") else "",
        halt=halt,
        reason=_text(answer.get("reason") or specific.get("permissionDecisionReason")),
        note=_text(answer.get("context") or specific.get("additionalContext")),
        patch=patch if isinstance(patch, dict) else {},
    )


def _text(value: object) -> str:
    if isinstance(value, list):
        value = "\n".join(item for item in value if isinstance(item, str))
    return value[:TEXT_MAX] if isinstance(value, str) else ""


def combine(outputs: Sequence[HookOutput]) -> HookAnswer:
    """Combine the answers, in the order of the configuration: `deny` wins over `allow`, and that over no decision.

    Later patches win over earlier ones; a denial has none.
    """
    answers = [output.answer for output in outputs]
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
