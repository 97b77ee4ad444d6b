"""Compute the fields of an Anthropic request that do not depend on the conversation: limits, sampling, thinking.

Thinking is asked for in one of three ways, depending on the model: with an effort and adaptive thinking, with adaptive
thinking alone, or with a budget of tokens. Sampling parameters are refused together with thinking.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.models.options import EFFORTS, THINKING_TOKENS, effort_of, max_tokens_of, merge, options_of, sampling_of
from worker.models.wires.anthropic_models import Abilities, abilities_of, budget_of
from worker.models.wires.wire import WireContext

BINDING_BETA = "thinking-binding-controls-2026-08-01"
_INTERLEAVED_BETA = "interleaved-thinking-2025-05-14"
_SAMPLING = ("temperature", "top_p", "top_k")
_LEVELS = EFFORTS - {"none"}


@dataclass(frozen=True, slots=True)
class AnthropicOptions:
    """The fields of the body that are the same for each request of a model, and what the headers say about them."""

    fields: Mapping[str, Any]
    extra: Mapping[str, Any]  # replaces fields of the same name
    betas: frozenset[str]
    binds_thinking: bool  # stale thinking must be dropped by the provider
    _configured_max: int
    _budget: int
    _abilities: Abilities

    @property
    def samples(self) -> bool:
        """Return whether a sampling parameter is sent."""
        return any(name in self.fields or name in self.extra for name in _SAMPLING)

    def max_tokens(self, requested: int) -> int:
        """Return the limit of the answer; `requested` is the request's own, 0 for the configured one.

        It includes the thinking budget, and must be greater than that.
        """
        limit = requested or self._configured_max
        if self._budget and limit <= self._budget:
            limit = self._budget + (limit or THINKING_TOKENS)
        limit = limit or self._abilities.output_default
        has_larger_output = any(beta.startswith("output-") for beta in self.betas)
        largest = 0 if has_larger_output else self._abilities.output_max
        return min(limit, largest) if largest else limit


def anthropic_options(context: WireContext) -> AnthropicOptions:
    """Return the options of the model of `context`."""
    model, selected = context.model, context.selected
    abilities = abilities_of(model.id)
    options = options_of(model, context.provider, selected)
    options.pop("api", None)
    fields = _thinking(context, options, abilities)
    budget = fields.get("thinking", {}).get("budget_tokens")
    betas = options.pop("betas", None)
    if betas is None:
        betas = [_INTERLEAVED_BETA] if isinstance(budget, int) else []
    if "thinking" not in fields and not abilities.refuses_sampling:
        fields |= {name: value for name, value in sampling_of(model, selected).items() if name in _SAMPLING}
    if "service_tier" in options:
        fields["service_tier"] = options.pop("service_tier")
    extra = merge(options, context.provider.extra_body)
    if abilities.refuses_sampling:
        extra = {name: value for name, value in extra.items() if name not in _SAMPLING}
    # Only adaptive thinking may say what happens to stale blocks, and an explicit setting is kept.
    thinking = extra.get("thinking", fields.get("thinking", {}))
    is_adaptive = isinstance(thinking, dict) and thinking.get("type", "adaptive") == "adaptive"
    has_binding = isinstance(thinking, dict) and "block_binding" in thinking
    return AnthropicOptions(
        fields=fields,
        extra=extra,
        betas=frozenset(str(beta) for beta in betas) | ({BINDING_BETA} if has_binding else frozenset()),
        binds_thinking=abilities.binds_thinking and is_adaptive and not has_binding,
        _configured_max=max_tokens_of(model, selected, 0),
        _budget=budget if isinstance(budget, int) else 0,
        _abilities=abilities,
    )


def _thinking(context: WireContext, options: dict[str, Any], abilities: Abilities) -> dict[str, Any]:
    """Return the fields that ask for thinking, none when it is off. Takes its options out of `options`."""
    configured = options.pop("thinking", None)
    effort = str(options.pop("effort", effort_of(context.model, context.selected)))
    budget = {"type": "enabled", "budget_tokens": THINKING_TOKENS}
    if isinstance(configured, dict):
        thinking = {"type": "enabled", **configured} if "budget_tokens" in configured else dict(configured)
        return {} if thinking.get("type") == "disabled" else {"thinking": thinking}
    if effort in _LEVELS:
        if not abilities.takes_effort:
            return {"thinking": budget}
        own_budget = {"type": "enabled", "budget_tokens": budget_of(effort)}
        return {
            "thinking": {"type": "adaptive"} if abilities.is_adaptive else own_budget,
            "output_config": {"effort": abilities.effort(effort)},
        }
    if context.selected.think and context.model.can_reason:
        return {"thinking": {"type": "adaptive"} if abilities.refuses_budget else budget}
    return {}
