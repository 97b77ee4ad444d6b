"""Mask the secrets of a configuration so that it can be shown; its shape stays the same.

Masked are strings under the name of a secret, everything in `env` and `headers`, credentials in URLs, and the resolved
secrets wherever they occur.
"""

import re
from collections.abc import Iterable

from msgspec.structs import replace

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.secrets import MASK
from worker.config.files import Object

SECRET_LENGTH_MIN = 16
"""Shorter secrets are not searched for in other texts: the key of a local server may be the server's name."""

_SECRET_NAME = re.compile(r"key|token|secret|auth|password|cookie", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/?#@\s]+@")


class Redaction:
    """Masks the parts of one configuration."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = [secret for secret in secrets if len(secret) >= SECRET_LENGTH_MIN]

    def provider(self, provider: ProviderConfig) -> ProviderConfig:
        """Return a provider that shows whether it has a key, but not the key."""
        return replace(
            provider,
            api_key=MASK if provider.api_key else "",
            base_url=self._text(provider.base_url),
            extra_headers=dict.fromkeys(provider.extra_headers, MASK),
            extra_body=self.tree(provider.extra_body),
            provider_options=self.tree(provider.provider_options),
            oauth=self.tree(provider.oauth) if provider.oauth is not None else None,
            models=[self._model(model) for model in provider.models],
        )

    def choice(self, choice: SelectedModel) -> SelectedModel:
        """Return a selected model with its options masked."""
        return (
            replace(choice, provider_options=self.tree(choice.provider_options)) if choice.provider_options else choice
        )

    def tree(self, tree: Object, *, is_secret: bool = False) -> Object:
        """Return any object of the files masked; with `is_secret`, all of its strings are masked."""
        return {key: self._value(value, is_secret or is_secret_key(key)) for key, value in tree.items()}

    def _model(self, model: Model) -> Model:
        return replace(model, options=self.tree(model.options)) if model.options else model

    def _value(self, value: object, is_secret: bool) -> object:
        match value:
            case dict():
                return self.tree(value, is_secret=is_secret)
            case list():
                return [self._value(item, is_secret) for item in value]
            case str() if is_secret and value:
                return MASK
            case str():
                return self._text(value)
            case _:
                return value

    def _text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return _CREDENTIALS.sub(f"{MASK}@", text)


def is_secret_key(key: str) -> bool:
    """Return whether the value under this name may be a secret."""
    return key in ("env", "headers", "extra_headers") or _SECRET_NAME.search(key) is not None
