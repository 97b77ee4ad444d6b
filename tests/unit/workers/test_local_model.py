"""Parts of the local model: its provider, its socket, and when its process is idle."""

import asyncio
import json
import logging
import socket
from pathlib import Path

import pytest

from protocol.api.message import Message, TextData, TextPart
from protocol.base.clock import SystemClock
from protocol.errors import BadInput
from protocol.limits import DEFAULT_LIMITS, Limits
from supervisor.__main__ import read_config
from supervisor.config.errors import ConfigError
from supervisor.local_model.process import LocalModel
from supervisor.local_model.server import Relay, Traffic
from tests.support.fakes.raw_provider import RawProvider
from worker.config.load import WorkspaceConfig, load_config
from worker.models.client import ModelFailure, ModelRequest
from worker.models.registry import ModelRegistry

SOCKET = "/run/model.sock"


def load(
    tmp_path: Path,
    text: str = "{}",
    *,
    env: dict[str, str] | None = None,
    local_model: str = "",
    default_model: str = "",
) -> WorkspaceConfig:
    workspace = tmp_path / "w"
    workspace.mkdir()
    (workspace / "bulkhead.json").write_text(text)
    return load_config(
        workspace,
        tmp_path / "data",
        {"HOME": str(tmp_path), **(env or {})},
        local_model=local_model,
        default_model=default_model,
    )


def test_without_configuration_an_installed_local_model_is_used_and_a_hint_says_so(tmp_path: Path) -> None:
    config = load(tmp_path, local_model=SOCKET)
    assert list(config.providers) == ["local", "builtin"]
    assert (config.models["large"].provider, config.models["small"].model) == ("local", "smollm2")
    assert config.providers["local"].base_url == "unix:///run/model.sock"
    assert "local/smollm2" in config.hint
    assert "ANTHROPIC_API_KEY" in config.hint


def test_a_provider_with_a_key_is_preferred_to_the_local_model(tmp_path: Path) -> None:
    config = load(tmp_path, local_model=SOCKET, env={"OPENAI_API_KEY": "k"})
    assert config.models["large"].provider == "openai"
    assert "local" in config.providers
    assert config.hint == ""


def test_a_configured_provider_of_the_same_name_replaces_the_local_model(tmp_path: Path) -> None:
    text = '{"providers": {"local": {"base_url": "http://127.0.0.1:1/v1", "models": [{"id": "m"}]}}}'
    config = load(tmp_path, text, local_model=SOCKET)
    assert (config.providers["local"].type, config.models["large"].model) == ("openai-compat", "m")


def test_the_local_model_can_be_disabled(tmp_path: Path) -> None:
    config = load(tmp_path, '{"providers": {"local": {"disable": true}}}', local_model=SOCKET)
    assert list(config.providers) == ["builtin"]


def test_a_missing_local_model_is_an_error_that_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="make local-model"):
        load(tmp_path, default_model="local/smollm2")


async def test_a_socket_without_a_listener_is_a_retryable_failure(tmp_path: Path) -> None:
    config = load(tmp_path, local_model=str(tmp_path / "none.sock"))
    models = ModelRegistry(config, {}, DEFAULT_LIMITS)
    rows = [Message(id="1", session_id="s", role="user", parts=[TextPart(TextData(text="hello"))])]
    with pytest.raises(ModelFailure, match="cannot reach the model of this machine") as caught:
        async for _ in models.large().stream(ModelRequest(system="", messages=rows)):
            pass
    assert (caught.value.category, caught.value.retryable) == ("network", True)
    assert "supervisor" in caught.value.message
    await models.close()


async def test_a_full_context_is_reported_as_context_overflow(tmp_path: Path, short_root: Path) -> None:
    path = short_root / "model.sock"
    config = load(tmp_path, local_model=str(path))
    error = {"code": 400, "message": "request (9 tokens) exceeds …", "type": "exceed_context_size_error", "n_ctx": 8}
    body = json.dumps({"error": error}).encode()
    async with RawProvider(path=path) as server:
        models = ModelRegistry(config, {}, DEFAULT_LIMITS)
        rows = [Message(id="1", session_id="s", role="user", parts=[TextPart(TextData(text="hello"))])]
        events = models.large().stream(ModelRequest(system="", messages=rows))
        pull = asyncio.ensure_future(anext(events))
        received = await server.next_request()
        assert received.line == "POST /v1/chat/completions HTTP/1.1"
        await received.send(b"HTTP/1.1 400 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        with pytest.raises(ModelFailure) as caught:
            await pull
        assert caught.value.category == "context_overflow", caught.value.message
        await models.close()


async def test_requests_to_a_model_that_cannot_be_started_get_the_reason(short_root: Path) -> None:
    directory = short_root / "lm"
    directory.mkdir()
    model = LocalModel(
        runtime_dir=directory,
        command=["/nowhere/program"],
        env={"OPENAI_API_KEY": "k"},
        limits=Limits(),
        clock=SystemClock(),
        log=logging.getLogger("bulkhead.test"),
    )
    model.open()
    try:
        reader, writer = await asyncio.open_unix_connection(model.address)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(10.0):
            answer = await reader.read()
        writer.close()
    finally:
        await model.close(end=True)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"/nowhere/program" in answer
    assert list(directory.glob("*.sock")) == []


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("0", False), ("", False)])
def test_the_variable_wins_over_the_file(tmp_path: Path, text: str, expected: bool) -> None:
    file = tmp_path / "b.json"
    file.write_text('{"server": {"local_model": false, "local_model_command": ["a", "b"]}}')
    config = read_config(["--config", str(file)], {"HOME": "/h", "BULKHEAD_LOCAL_MODEL": text})
    assert config.local_model is expected
    assert config.local_model_command == ("a", "b")
    assert "BULKHEAD_LOCAL_MODEL" not in config.worker_env


def test_another_value_of_the_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="write 1 for on, 0 for off"):
        read_config([], {"HOME": "/h", "BULKHEAD_LOCAL_MODEL": "yes"})


def test_an_open_request_keeps_the_model_from_being_idle() -> None:
    now = [0.0]
    traffic = Traffic(lambda: now[0])
    traffic.asked(1)
    now[0] = 1000.0
    assert not traffic.is_idle_for(10.0), "a long prompt is being read"
    traffic.answered(1)
    assert not traffic.is_idle_for(10.0)
    now[0] = 1010.0
    assert traffic.is_idle_for(10.0)


async def test_the_relay_copies_in_both_directions_and_closes_both_sides(short_root: Path) -> None:
    outer, inner = short_root / "outer.sock", short_root / "inner.sock"
    ended = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data.upper())
        ended.set()
        writer.close()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(outer))
    listener.listen()
    listener.setblocking(False)
    async with await asyncio.start_unix_server(echo, str(inner)):
        traffic = Traffic(lambda: 0.0)
        relay = Relay(listener, inner, traffic)
        relay.open()
        reader, writer = await asyncio.open_unix_connection(str(outer))
        writer.write(b"hello")
        assert await reader.read(100) == b"HELLO"
        writer.close()
        await asyncio.wait_for(ended.wait(), 5.0)  # a client that leaves ends the answer
        relay.close()
        late_reader, late_writer = await asyncio.open_unix_connection(str(outer))
        late_writer.write(b"late")
        listener.close()  # the connection was not accepted, and no process follows that could accept it
        with pytest.raises(OSError):
            await asyncio.wait_for(late_reader.read(100), 5.0)
        late_writer.close()
