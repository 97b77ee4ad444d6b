"""Say what each Claude model accepts, by its id.

Source: https://platform.claude.com/docs/en/about-claude/models and the pages on effort, adaptive thinking and preserved
thinking, as collected in pydantic-ai 2.68 (`profiles/anthropic.py`). Other models, which compatible servers offer, have
none of these abilities: they get a thinking budget, and no limit of their own.
"""

from dataclasses import dataclass

_EFFORT = (
    "claude-fable-5",
    "claude-mythos-5",
    "claude-opus-4-5",
    "claude-opus-4-6",
    "claude-opus-4-7",
    "claude-opus-4-8",
    "claude-opus-5",
    "claude-sonnet-4-6",
    "claude-sonnet-5",
    "claude-haiku-5-5",
)
_ADAPTIVE = (*(name for name in _EFFORT if name != "claude-opus-4-5"), "claude-mythos-preview")
_NEWEST = tuple(name for name in _EFFORT if name not in ("claude-opus-4-5", "claude-opus-4-6", "claude-sonnet-4-6"))
_BINDING = (
    "claude-fable-5-1",
    "claude-fable-5-2",
    "claude-mythos-5-2",
    "claude-opus-5-5",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
)
_LONG_OUTPUT = tuple(name for name in _EFFORT if name != "claude-opus-4-5")
_MEDIUM_OUTPUT = ("claude-haiku-4-5", "claude-opus-4-5", "claude-sonnet-4-5")
_OLD = (
    "claude-3",
    "claude-4-",
    "claude-opus-4-0",
    "claude-opus-4-1",
    "claude-opus-4-2",
    "claude-opus-4@",
    "claude-sonnet-4-0",
    "claude-sonnet-4-2",
    "claude-sonnet-4@",
)
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high"}
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 10_000, "high": 16_384, "xhigh": 32_768, "max": 32_768}
"""Thinking tokens for each effort, for the one model that takes an effort but cannot choose the amount itself."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model accepts.

    `output_max` is the largest limit of an answer, 0 for unknown; `output_default` is sent when none is configured,
    because the API requires one. `binds_thinking`: a block of thinking is refused after another conversation than the
    one in which it was created.
    """

    takes_effort: bool
    is_adaptive: bool
    takes_xhigh: bool
    takes_max: bool
    refuses_budget: bool
    refuses_sampling: bool
    binds_thinking: bool
    output_max: int
    output_default: int

    def effort(self, level: str) -> str:
        """Return the effort to send for a level that may be one that the model does not know."""
        if level == "xhigh" and self.takes_xhigh:
            return level
        if level in _EFFORTS:
            return _EFFORTS[level]
        if self.takes_max:
            return "max"
        return "xhigh" if self.takes_xhigh else "high"


def abilities_of(model_id: str) -> Abilities:
    """Return the abilities of the model with this id."""
    output_max = 128_000 if model_id.startswith(_LONG_OUTPUT) else 64_000 if model_id.startswith(_MEDIUM_OUTPUT) else 0
    # Older models refuse a request whose input and limit together exceed the context window.
    is_old = model_id in ("claude-opus-4", "claude-sonnet-4") or model_id.startswith(_OLD)
    return Abilities(
        takes_effort=model_id.startswith(_EFFORT),
        is_adaptive=model_id.startswith(_ADAPTIVE),
        takes_xhigh=model_id.startswith(_NEWEST),
        takes_max=not model_id.startswith("claude-opus-4-5"),
        refuses_budget=model_id.startswith(_NEWEST),
        refuses_sampling=model_id.startswith(_NEWEST),
        binds_thinking=model_id.startswith(_BINDING),
        output_max=output_max,
        output_default=4096 if is_old else output_max or 16_384,
    )


def budget_of(effort: str) -> int:
    """Return the thinking budget in tokens for an effort."""
    return _BUDGETS[effort]
