"""Asks local model servers which models they have (`GET /models`).

All are asked at once, each on a thread of its own, within one bound. It blocks, so it belongs to the reading of the
configuration. What was found is remembered for a while, so that not every reload asks again.
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
"""For all servers together."""
REMEMBERED_S = 60.0
ANSWER_MAX_BYTES = 4 * 1024 * 1024
MODELS_MAX = 500
LOCAL_TYPES = {
    "ollama": "http://localhost:11434/v1",
    "lmstudio": "http://localhost:1234/v1",
    "llamacpp": "http://localhost:8080/v1",
    "litellm": "http://localhost:4000/v1",
    "omlx": "http://localhost:8000/v1",
}
"""The types whose servers are asked, and where each stands by default."""
_WINDOWS = ("context_length", "max_context_length", "context_window", "max_model_len", "max_input_tokens")


class Discovery:
    """Asks and remembers. May be used from several threads."""

    def __init__(self, clock: Clock | None = None, timeout_s: float = DISCOVER_S) -> None:
        self._clock = clock or SystemClock()
        self._within_s = timeout_s
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, list[Model]]] = {}

    def models(self, providers: Iterable[ProviderConfig]) -> dict[str, list[Model]]:
        """What each of these has, by their ids; nothing for one that did not answer in time or not well."""
        found: dict[str, list[Model]] = {}
        asked: list[tuple[ProviderConfig, threading.Thread]] = []
        for provider in providers:
            with self._lock:
                until, models = self._known.get((provider.base_url, provider.api_key), (0.0, []))
            if until > self._clock.now():
                found[provider.id] = models
            else:
                asked.append((provider, threading.Thread(target=self._ask, args=(provider,), daemon=True)))
        deadline = self._clock.now() + self._within_s
        for _, thread in asked:
            thread.start()
        for provider, thread in asked:
            thread.join(max(0.0, deadline - self._clock.now()))
            with self._lock:
                until, models = self._known.get((provider.base_url, provider.api_key), (0.0, []))
            if until > self._clock.now():
                found[provider.id] = models
        return found

    def _ask(self, provider: ProviderConfig) -> None:
        try:
            listed = _listed(_get(provider, self._within_s))
        except Exception:  # whatever speaks there, it is no reason to fail: the models are only not known
            return
        with self._lock:
            self._known[provider.base_url, provider.api_key] = (self._clock.now() + REMEMBERED_S, listed)


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
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        body = answer.read(ANSWER_MAX_BYTES + 1)
    finally:
        connection.close()
    if len(body) > ANSWER_MAX_BYTES:
        raise ValueError("too long")
    return json.loads(body)


def _listed(answer: Any) -> list[Model]:
    """The models of an answer like OpenAI's."""
    made: list[Model] = []
    for row in answer["data"][:MODELS_MAX]:
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
            continue
        if row.get("type") == "embeddings" or "embed" in row["id"].lower():
            continue
        meta = row.get("meta")
        places = (row, meta if isinstance(meta, dict) else {})
        numbers = [place.get(name) for place in places for name in (*_WINDOWS, "n_ctx", "n_ctx_train")]
        window = next((number for number in numbers if type(number) is int and number > 0), 0)
        name = row.get("name")
        made.append(
            Model(
                id=row["id"],
                name=name if isinstance(name, str) and name else row["id"],
                context_window=window,
                default_max_tokens=min(DEFAULT_MAX_TOKENS, window // 4) if window else 0,
            )
        )
    return made


DISCOVERY = Discovery()
"""The memory of this process."""
