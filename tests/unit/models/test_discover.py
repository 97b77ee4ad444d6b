"""Test the discovery of models on local servers: within one common timeout, and not on every reload."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from worker.config.catalogue import BUILTIN_ID
from worker.config.discover import Discovery
from worker.config.resolve import ResolvedProviders, resolve

ANSWER = {
    "data": [
        {"id": "qwen", "meta": {"n_ctx_train": 32768}},
        {"id": "llama", "name": "Llama", "max_model_len": 8192},
        {"id": "nomic-embed-text"},
        {"no": "id"},
        "nonsense",
    ]
}


@contextmanager
def model_server(answer: object = ANSWER, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Run a server; yield its base URL and the list of requested paths and keys."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(f"{self.path} {self.headers.get('Authorization')}")
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def discover(discovery: Discovery, **providers: ProviderConfig) -> ResolvedProviders:
    return resolve(providers, {}, use_known=False, default_model="", env={}, run=lambda _: "", discovery=discovery)


def test_discovered_models_are_added_after_the_configured_ones() -> None:
    with model_server() as (url, requests):
        own = Model(id="llama", name="Mine", context_window=5)
        resolved = discover(Discovery(), box=ProviderConfig(type="ollama", base_url=url, api_key="k", models=[own]))
        models = resolved.providers["box"].models
        assert [(model.id, model.name, model.context_window) for model in models] == [
            ("llama", "Mine", 5),
            ("qwen", "qwen", 32768),
        ]
        assert resolved.models["large"] == SelectedModel(model="llama", provider="box")
        assert requests == ["/v1/models Bearer k"]


def test_a_server_is_asked_once_and_only_when_it_is_local_and_discovery_is_on() -> None:
    with model_server() as (url, requests):
        discovery = Discovery()
        for _ in range(2):
            assert len(discover(discovery, box=ProviderConfig(type="llamacpp", base_url=url)).providers["box"].models)
        assert len(requests) == 1
        off = ProviderConfig(type="ollama", base_url=url + "/off", discover_models=False)
        other = ProviderConfig(type="openai-compat", base_url=url + "/other")
        resolved = discover(discovery, off=off, other=other)
        assert resolved.providers["off"].models == resolved.providers["other"].models == []
        assert len(requests) == 1


def test_silent_and_failing_servers_delay_the_discovery_by_at_most_the_timeout() -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with (
        silent,
        model_server() as (url, _),
        model_server({"data": 5}) as (odd, _),
        model_server(status=500) as (bad, _),
    ):
        resolved = discover(
            Discovery(timeout_s=0.5),
            silent=ProviderConfig(type="ollama", base_url=f"http://127.0.0.1:{silent.getsockname()[1]}/v1"),
            also=ProviderConfig(type="omlx", base_url=f"http://127.0.0.1:{silent.getsockname()[1]}/also"),
            closed=ProviderConfig(type="ollama", base_url="http://127.0.0.1:9/v1"),
            odd=ProviderConfig(type="lmstudio", base_url=odd),
            bad=ProviderConfig(type="litellm", base_url=bad),
            good=ProviderConfig(type="ollama", base_url=url),
        )
        sizes = {name: len(provider.models) for name, provider in resolved.providers.items() if name != BUILTIN_ID}
        assert sizes == {"silent": 0, "also": 0, "closed": 0, "odd": 0, "bad": 0, "good": 2}
        assert resolved.models["large"].provider == "good"


def test_a_local_provider_type_has_a_default_address() -> None:
    result = resolve(
        {"box": ProviderConfig(type="ollama")}, {}, use_known=False, default_model="", env={}, run=lambda _: ""
    )
    assert result.providers["box"].base_url == "http://localhost:11434/v1"
