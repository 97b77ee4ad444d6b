"""Define the interface of a model client: one request in, a stream of events out, one kind of failure.

Each step of a turn makes one request. Its stream ends with exactly one `Finished`; without it the stream was cut off.
Nothing here retries: the turn does, by the rules of `retry.py`.
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
    "network",  # unreachable, or the connection broke
    "timeout",  # one of our own deadlines passed
    "stream_cut",  # the stream ended in the middle
    "garbage",  # the response cannot be parsed
]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens used by one attempt, as counted by the provider. `input` excludes both cache fields."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cost: float | None = None  # in US dollars, as reported by the provider; None: not reported

    @property
    def is_empty(self) -> bool:
        """Return whether the provider reported no usage, so that it must be estimated."""
        return not (self.input or self.output or self.cache_read or self.cache_write)


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingEnd:
    """Ends a thinking block; its metadata must be sent back to the provider unchanged.

    A signature without any thinking before it belongs to the tool call that follows (Google).
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
    """Ends a tool call. `input` is the text that the model wrote, not yet checked to be JSON."""

    id: str
    input: str


@dataclass(frozen=True, slots=True)
class Counted:
    """Usage so far, for a response that never completes. Each one replaces the one before."""

    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of the stream, as declared by the provider."""

    reason: FinishReason
    tokens: Tokens = Tokens()


ModelEvent = TextDelta | ThinkingDelta | ThinkingEnd | ToolCallStart | ToolCallEnd | Counted | Finished


class ToolShape(Protocol):
    """The part of a tool's specification that is sent to a model."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def schema(self) -> Mapping[str, object]: ...


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request. `messages` are valid for a provider: every tool call is directly followed by its result."""

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
        """Return whether this model is billed independently of the tokens used."""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Send the request once. Raises ModelFailure. Closing the generator, or cancelling its reader, disconnects."""
        ...


class ModelFailure(Upstream):
    """A request to a model failed. `title` and message are for display and contain no secret."""

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
        self.provider_status = provider_status  # the HTTP status of the response, 0 for none
        self.provider_code = provider_code
        self.in_stream = in_stream  # the response had begun
