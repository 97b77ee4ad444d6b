"""Ask local model servers for their models (`GET /models`).

All servers are asked at once, each on its own thread, within one time limit. This blocks, so it is part of loading the
configuration. Results are cached for a while, so that not every reload asks again.
"""

import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from protocol.api.provider import Model, ProviderConfig
from protocol.base.clock import Clock, SystemClock
from worker.config.catalogue import DEFAULT_MAX_TOKENS

DISCOVER_S = 3.0
"""Time limit for all servers together."""
CACHED_S = 60.0
RESPONSE_MAX_BYTES = 4 * 1024 * 1024
MODELS_MAX = 500
LOCAL_TYPES = {
    "ollama": "http://localhost:11434/v1",
    "lmstudio": "http://localhost:1234/v1",
    "llamacpp": "http://localhost:8080/v1",
    "litellm": "http://localhost:4000/v1",
    "omlx": "http://localhost:8000/v1",
}
"""The provider types whose servers are asked for their models, with their default URLs."""
_WINDOWS = ("context_length", "max_context_length", "context_window", "max_model_len", "max_input_tokens")


class Discovery:
    """Asks servers for their models and caches the results. Thread-safe."""

    def __init__(self, clock: Clock | None = None, timeout_s: float = DISCOVER_S) -> None:
        self._clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._cache: dict[tuple[str, str], tuple[float, list[Model]]] = {}

    def models(self, providers: Iterable[ProviderConfig]) -> dict[str, list[Model]]:
        """Return the models by provider id, without providers that did not answer correctly in time. Blocks."""
        found: dict[str, list[Model]] = {}
        pending: list[tuple[ProviderConfig, threading.Thread]] = []
        for provider in providers:
            with self._lock:
                until, models = self._cache.get((provider.base_url, provider.api_key), (0.0, []))
            if until > self._clock.now():
                found[provider.id] = models
            else:
                pending.append((provider, threading.Thread(target=self._ask, args=(provider,), daemon=True)))
        deadline = self._clock.now() + self._timeout_s
        for _, thread in pending:
            thread.start()
        for provider, thread in pending:
            thread.join(max(0.0, deadline - self._clock.now()))
            with self._lock:
                until, models = self._cache.get((provider.base_url, provider.api_key), (0.0, []))
            if until > self._clock.now():
                found[provider.id] = models
        return found

    def _ask(self, provider: ProviderConfig) -> None:
        try:
            models = _parsed(_get(provider, self._timeout_s))
        except Exception:  # any program may answer at this URL: without a valid response there are no models
            return
        with self._lock:
            self._cache[provider.base_url, provider.api_key] = (self._clock.now() + CACHED_S, models)


def _get(provider: ProviderConfig, timeout_s: float) -> Any:
    import http.client

    parts = urlsplit(provider.base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    headers: Mapping[str, str] = {"Accept": "application/json", **provider.extra_headers}
    if provider.api_key:
        headers = {"Authorization": f"Bearer {provider.api_key}", **headers}
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/models", headers=dict(headers))
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        body = response.read(RESPONSE_MAX_BYTES + 1)
    finally:
        connection.close()
    if len(body) > RESPONSE_MAX_BYTES:
        raise ValueError("too long")
    return json.loads(body)


def _parsed(body: Any) -> list[Model]:
    """Return the models of a response in OpenAI's format."""
    models: list[Model] = []
    for row in body["data"][:MODELS_MAX]:
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
            continue
        if row.get("type") == "embeddings" or "embed" in row["id"].lower():
            continue
        meta = row.get("meta")
        objects = (row, meta if isinstance(meta, dict) else {})
        numbers = [each.get(name) for each in objects for name in (*_WINDOWS, "n_ctx", "n_ctx_train")]
        window = next((number for number in numbers if type(number) is int and number > 0), 0)
        name = row.get("name")
        models.append(
            Model(
                id=row["id"],
                name=name if isinstance(name, str) and name else row["id"],
                context_window=window,
                default_max_tokens=min(DEFAULT_MAX_TOKENS, window // 4) if window else 0,
            )
        )
    return models


DISCOVERY = Discovery()
"""The cache of this process."""
