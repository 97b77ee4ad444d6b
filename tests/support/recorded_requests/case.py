"""Define a case: one request whose form is recorded, and the configuration with which it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocol.api.message import Message
from protocol.api.provider import Model, ProviderConfig, SelectedModel
from tests.support.recorded_requests.histories import PROVIDER_ID, user
from tests.support.recorded_requests.tools import Tool
from worker.models.client import ModelRequest

BASE_URL = "http://provider.test"
KEY = "key-0123456789"


@dataclass(frozen=True)
class Case:
    """One request, and the configuration with which it is made."""

    messages: Sequence[Message] = field(default_factory=lambda: [user("hi")])
    model: Mapping[str, Any] = field(default_factory=dict)
    selected: Mapping[str, Any] = field(default_factory=dict)
    provider: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    system: str = "be good"
    tools: Sequence[Tool] = ()
    max_tokens: int = 0

    def configuration(self, kind: str, base_url: str) -> ProviderConfig:
        """Return the provider, of the type `kind`, with the model."""
        values = {"id": PROVIDER_ID, "type": kind, "base_url": base_url, "api_key": KEY, **self.provider}
        values["base_url"] = base_url + str(self.provider.get("base_url", ""))
        described = {"id": "scripted-1", "default_max_tokens": 1000, "supports_attachments": True, **self.model}
        return ProviderConfig(**values, models=[Model(**described)])

    def selection(self) -> SelectedModel:
        return SelectedModel(**{"model": self.model.get("id", "scripted-1"), "provider": PROVIDER_ID, **self.selected})

    def request(self) -> ModelRequest:
        return ModelRequest(self.system, self.messages, self.tools, self.max_tokens)
