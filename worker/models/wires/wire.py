"""Define the interface of a wire: what one API of a provider expects as a request, and how its response is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.base.text import replace_surrogates_in
from worker.models.client import ModelEvent, ModelRequest


@dataclass(frozen=True, slots=True)
class WireContext:
    """What a wire knows about its model. `secrets` are removed from the texts of failures."""

    model: Model
    provider: ProviderConfig
    selected: SelectedModel
    env: Mapping[str, str]
    caches: bool  # cache markers may be sent
    secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WireRequest:
    """One POST request. The transport adds the headers about content, encodings and the user agent."""

    url: str  # absolute
    headers: dict[str, str]
    body: bytes  # JSON


class StreamDecoder(Protocol):
    """Translates the server-sent events of one response; made for one response, used once."""

    @property
    def is_complete(self) -> bool:
        """Return whether the final event was seen, so that the rest need not be awaited."""
        ...

    @property
    def progress(self) -> int:
        """Return how many deltas were decoded so far, of arguments too; keep-alive events do not count."""
        ...

    def event(self, name: str, data: bytes) -> list[ModelEvent]:
        """Translate one event; `name` is "" if it has none. Unknown kinds of events and unknown fields are ignored.

        Raises ModelFailure with `in_stream` for an error event and for unreadable data.
        """
        ...

    def end(self) -> list[ModelEvent]:
        """Return what follows the last event: ends of thinking and of the tool calls in order, then `Finished`.

        Called once. Raises ModelFailure (`stream_cut`) when the response was not complete.
        """
        ...


class Wire(Protocol):
    """One API of one configured model."""

    def request(self, request: ModelRequest) -> WireRequest: ...
    def decoder(self) -> StreamDecoder: ...


def encode_body(body: object) -> bytes:
    """Return the body of a request, or a part of it, as JSON.

    Every surrogate, which UTF-8 cannot hold, becomes a question mark.
    """
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(replace_surrogates_in(body))
