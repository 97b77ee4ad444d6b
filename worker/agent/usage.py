"""Count tokens and cost of one attempt at a model request, also of one that failed or was cancelled (W-20)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from protocol.api.message import (
    BinaryPart,
    Message,
    ReasoningPart,
    ShellCommandPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from protocol.api.provider import Model
from worker.models.client import Tokens

BYTES_PER_TOKEN = 4
MEDIA_TOKENS = 1000  # of an image; its size in bytes says nothing about its tokens

Ended = Literal["completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one attempt adds to a session.

    The token fields are gauges of the session: they replace the previous values, and 0 leaves those as they are. The
    cost is added.
    """

    prompt_tokens: int  # the whole input, cached or not (W-32)
    completion_tokens: int
    cost: float  # in the currency of the price table
    ended: Ended


def measure(
    model: Model,
    tokens: Tokens,
    *,
    request: Sequence[Message],
    system: str,
    answer: Message,
    ended: Ended,
    is_flat_rate: bool = False,
) -> Usage:
    """Return the usage of one attempt; estimated from the texts, at no cost, when the provider reported nothing.

    A failed attempt without a report and without output counts as nothing. For an interrupted one providers report the
    input and not yet the output, so its output is at least what was received.
    """
    if tokens.is_empty:
        output = estimate([answer])
        if ended == "failed" and output == 0:
            return Usage(0, 0, 0.0, ended)
        return Usage(estimate(request) + _tokens_of(len(system)), output, 0.0, ended)
    if ended != "completed":
        tokens = replace(tokens, output=max(tokens.output, estimate([answer])))
    prompt = tokens.input + tokens.cache_read + tokens.cache_write
    cost = 0.0 if is_flat_rate else cost_of(model, tokens)
    return Usage(prompt, tokens.output, cost, ended)


def cost_of(model: Model, tokens: Tokens) -> float:
    """Return the price of these tokens, or the provider's own figure if it gave one (W-63).

    `…_in_cached` is the price of writing the cache, `…_out_cached` of reading it.
    """
    if tokens.cost is not None:
        return tokens.cost
    return (
        tokens.input * model.cost_per_1m_in
        + tokens.output * model.cost_per_1m_out
        + tokens.cache_write * model.cost_per_1m_in_cached
        + tokens.cache_read * model.cost_per_1m_out_cached
    ) / 1_000_000


def estimate(messages: Sequence[Message]) -> int:
    """Estimate the tokens of these rows: a quarter of their bytes."""
    return sum(_tokens_of(_size(message)) + _media_tokens(message) for message in messages)


def _tokens_of(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)


def _size(message: Message) -> int:
    size = 0
    for part in message.parts:
        match part:
            case TextPart(data):
                size += len(data.text.encode())
            case ReasoningPart(data):
                size += len(data.thinking.encode())
            case ToolCallPart(data):
                size += len(data.name) + len(data.input.encode())
            case ToolResultPart(data):
                size += len(data.name) + len(data.content.encode())
            case ShellCommandPart(data):
                size += len(data.command.encode()) + len(data.output.encode())
            case _:
                pass
    return size


def _media_tokens(message: Message) -> int:
    return MEDIA_TOKENS * sum(
        isinstance(part, BinaryPart) or (isinstance(part, ToolResultPart) and bool(part.data.data))
        for part in message.parts
    )
