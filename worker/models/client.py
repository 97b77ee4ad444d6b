"""What a model is to the rest of the worker: one request in, a stream of events out, and one kind of failure.

A client is asked once per step. Its stream ends with exactly one `Finished`; a stream that ends without it was cut.
Nothing here retries: that is `retry.py`, driven by the turn.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from protocol.api.message import FinishReason, Message
from protocol.api.provider import Model
from protocol.errors import Upstream

Category = Literal[
    "auth",  # the key is wrong or may not use this model
    "quota",  # credits are used up
    "rate_limit",
    "overloaded",
    "server",  # the provider failed (5xx)
    "context_overflow",
    "bad_request",
    "not_found",  # no such model, or a wrong base URL
    "network",  # not reached, or the connection broke
    "timeout",  # one of our own deadlines ran out
    "stream_cut",  # ended in the middle
    "garbage",  # an answer that nobody can read
]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one attempt used, as the provider counts it. `input` excludes both cache fields."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cost: float | None = None  # what the provider says it cost, in US dollars; None: it does not say

    @property
    def is_empty(self) -> bool:
        """Did the provider report nothing, so that we must estimate?"""
        return not (self.input or self.output or self.cache_read or self.cache_write)


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingEnd:
    """The block is over; the metadata must go back to the provider as it came.

    With a signature and nothing thought before it, it belongs to the tool call that follows (Google).
    """

    signature: str = ""
    id: str = ""
    provider: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """`input` is the text that the model wrote, not yet checked to be JSON."""

    id: str
    input: str


@dataclass(frozen=True, slots=True)
class Counted:
    """What the provider has counted so far, for an answer that never comes to its end. The newest one counts."""

    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider's own end of the stream."""

    reason: FinishReason
    tokens: Tokens = Tokens()


ModelEvent = TextDelta | ThinkingDelta | ThinkingEnd | ToolCallStart | ToolCallEnd | Counted | Finished


class ToolShape(Protocol):
    """The part of a tool's specification that a model sees."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def schema(self) -> Mapping[str, object]: ...


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request. `messages` are valid for a provider: every tool call has its result directly behind it."""

    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolShape] = ()
    max_tokens: int = 0  # 0: not sent


class ModelClient(Protocol):
    """One configured model."""

    @property
    def model(self) -> Model: ...
    @property
    def provider_id(self) -> str: ...
    @property
    def is_flat_rate(self) -> bool:
        """Is this model paid for without counting tokens?"""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Ask once. Raises ModelFailure. Closing the generator, or cancelling its reader, closes the connection."""
        ...


class ModelFailure(Upstream):
    """A request to a model failed. `title` and the message are for people and hold no secret."""

    default_code = "provider_failed"

    def __init__(
        self,
        message: str,
        *,
        category: Category,
        title: str = "",
        provider_status: int = 0,
        provider_code: str = "",
        retryable: bool = False,
        retry_after_s: float | None = None,
        in_stream: bool = False,
    ) -> None:
        super().__init__(
            message,
            retryable=retryable,
            retry_after_s=retry_after_s,
            details={"category": category, "provider_status": str(provider_status), "provider_code": provider_code},
        )
        self.category: Category = category
        self.title = title or "Provider error"
        self.provider_status = provider_status  # the HTTP status that the provider gave, 0 for none
        self.provider_code = provider_code
        self.in_stream = in_stream  # the answer had begun
