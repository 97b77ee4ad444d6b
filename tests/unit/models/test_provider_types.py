"""Types of providers: how each is reached, what is said of one that is not known or not installed."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from protocol.api.message import Message, ToolCallData, ToolCallPart, ToolResultData, ToolResultPart
from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.errors import BadInput
from protocol.limits import DEFAULT_LIMITS
from tests.support.fakes.scripted_provider import API_KEY
from tests.support.run_coroutine import run
from tests.unit.agent.agent_harness import LOG, seeded, user
from tests.unit.models.test_remote import _loopback_is_allowed as _loopback_is_allowed
from tests.unit.models.test_remote import collect, house
from worker.config.catalogue import BUILTIN_ID
from worker.config.discover import LOCAL_TYPES
from worker.config.load import WorkspaceConfig
from worker.config.resolve import resolve
from worker.config.schema import Options
from worker.models import provider_clients
from worker.models.client import Finished, ModelFailure, ModelRequest, TextDelta, ThinkingDelta
from worker.models.provider_clients import WIRES, wire_of
from worker.models.registry import ModelRegistry

MODEL = Model(id="m")
CHOICE = SelectedModel(model="m", provider="p")


def provider_of(kind: str, **changes: Any) -> ProviderConfig:
    return ProviderConfig(**{"id": "p", "type": kind, "base_url": "http://x/v1", "api_key": "k", **changes})


def test_an_unknown_type_is_refused_with_the_known_ones():
    with pytest.raises(BadInput) as caught:
        wire_of(provider_of("smoke"), MODEL, CHOICE)
    assert "'smoke' is not supported" in caught.value.message
    for kind in WIRES:
        assert kind in caught.value.message


@pytest.mark.parametrize(("kind", "extra"), [("google", "google"), ("google-vertex", "google"), ("bedrock", "bedrock")])
def test_a_library_that_is_not_there_is_named_with_how_to_install_it(kind, extra, monkeypatch):
    monkeypatch.setattr(provider_clients, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=rf"install bulkhead-agents\[{extra}\]"):
        wire_of(provider_of(kind), MODEL, CHOICE)


def test_one_of_two_interfaces_can_be_chosen():
    assert wire_of(provider_of("openai"), MODEL, CHOICE) == "responses"
    chat = {"provider_options": {"api": "chat"}}
    assert wire_of(provider_of("openai", **chat), MODEL, CHOICE) == "chat"
    assert wire_of(provider_of("openai-compat", provider_options={"api": "responses"}), MODEL, CHOICE) == "responses"
    for kind, api in (("anthropic", "chat"), ("openai", "telegraph")):
        with pytest.raises(BadInput, match="chat or responses"):
            wire_of(provider_of(kind, provider_options={"api": api}), MODEL, CHOICE)


@pytest.mark.parametrize("kind", sorted({*LOCAL_TYPES, "openai-compat", "vercel", "hyper"}))
def test_compatible_servers_are_asked_in_the_older_words(kind):
    async def main() -> None:
        async with house("openai", type=kind) as (provider, client):
            task = asyncio.create_task(collect(client))
            exchange = await provider.next_call()
            await exchange.reply("x")
            await task
            assert exchange.dialect == "openai"
            assert exchange.body["max_tokens"] == 1000
            assert exchange.headers["authorization"] == f"Bearer {API_KEY}"

    run(main())


@pytest.mark.parametrize(
    ("name", "sent"),
    [("openai/gpt-oss-120b", "openai/gpt-oss-120b:exacto"), ("qwen/qwen3-coder:free", "qwen/qwen3-coder:free")],
)
def test_openrouter_is_asked_for_the_variant_that_calls_tools_well(name, sent):
    async def main() -> None:
        changes: Any = {"model": {"id": name}, "selected": {"model": name}}
        async with house("openai", type="openrouter", **changes) as (provider, client):
            task = asyncio.create_task(collect(client))
            exchange = await provider.next_call()
            await exchange.reply("x")
            await task
            assert exchange.body["model"] == sent
            assert client.model.id == name

    run(main())


def test_openai_over_chat_and_a_compatible_server_over_responses():
    async def main() -> None:
        for dialect, api in (("responses", "chat"), ("openai", "responses")):
            async with house(dialect, provider_options={"api": api}) as (provider, client):
                task = asyncio.create_task(collect(client))
                exchange = await provider.next_call()
                assert exchange.dialect == ("openai" if api == "chat" else "responses")
                assert "api" not in exchange.body
                await exchange.reply("x")
                assert isinstance((await task)[-1], Finished)

    run(main())


def sent_by(
    provider: ProviderConfig,
    answer: bytes,
    env: dict[str, str] | None = None,
    messages: Sequence[Message] = (),
) -> tuple[Any, list[Any]]:
    """The one request that such a provider gets, and the events of the answer."""
    import httpx2

    seen: list[httpx2.Request] = []

    def reply(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=answer)

    async def main() -> list[Any]:
        selected = SelectedModel(model=provider.models[0].id, provider="p", reasoning_effort="low")
        config = WorkspaceConfig({"p": provider}, {"large": selected}, (), Options(), {}, "", (), (), ())
        transport = httpx2.MockTransport(reply)
        models = ModelRegistry(config, env or {}, DEFAULT_LIMITS, seeded(), LOG, transport=transport)
        events = await collect(models.large(), ModelRequest("be good", messages or [user("hi")]))
        await models.close()
        return events

    events = run(main())
    assert len(seen) == 1
    return seen[0], events


@pytest.mark.parametrize(
    ("base_url", "env", "target"),
    [
        (
            "https://me.azure.com",
            {},
            f"https://me.azure.com/openai/responses?api-version={provider_clients.AZURE_API_VERSION}",
        ),
        (
            "https://me.azure.com",
            {"AZURE_OPENAI_API_VERSION": "2030-01-01"},
            "https://me.azure.com/openai/responses?api-version=2030-01-01",
        ),
        ("https://me.azure.com/openai/v1", {}, "https://me.azure.com/openai/v1/responses"),
    ],
)
def test_azure_speaks_responses_with_the_version_of_its_api(base_url, env, target):
    from worker.zygote import warm_models

    provider = provider_of("azure", base_url=base_url, models=[MODEL])
    request, _ = sent_by(provider, warm_models._RESPONSES_ANSWER, env)
    assert str(request.url) == target
    assert "k" in (request.headers.get("api-key"), request.headers.get("authorization", "").removeprefix("Bearer "))


def gemini(**changes: Any) -> ProviderConfig:
    model = Model(id="gemini-3.8-flash", can_reason=True)
    return provider_of("google", base_url="https://generativelanguage.googleapis.com", models=[model], **changes)


def gemini_answer(parts: list[dict[str, Any]]) -> bytes:
    chunk = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
        "modelVersion": "gemini-3.8-flash",
        "responseId": "r",
    }
    return f"data: {json.dumps(chunk)}\r\n\r\n".encode()


def test_gemini_is_asked_and_understood():
    parts = [{"text": "hm", "thought": True}, {"text": "hello"}]
    request, events = sent_by(gemini(extra_headers={"x-team": "seven"}), gemini_answer(parts))
    assert "gemini-3.8-flash:streamGenerateContent" in str(request.url)
    assert request.headers["x-goog-api-key"] == "k"
    assert request.headers["x-session-id"]
    assert request.headers["x-team"] == "seven"
    body = json.loads(request.content)
    assert body["generationConfig"]["thinkingConfig"] == {"include_thoughts": True, "thinking_level": "LOW"}
    assert ThinkingDelta("hm") in events
    assert TextDelta("hello") in events
    assert events[-1].reason == "end_turn"
    assert events[-1].tokens.input == 3


def test_bedrock_is_reached_with_a_key_or_with_the_accounts_own_credentials():
    account = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    for provider, env in (
        (provider_of("bedrock", base_url=""), {}),
        (provider_of("bedrock", base_url="", api_key="", id="bedrock-europe"), account),
    ):
        made = provider_clients.make_wire_model(
            "bedrock", provider, MODEL, http=lambda: pytest.fail("not used"), env=env, limits=DEFAULT_LIMITS
        )
        assert made.system == "bedrock"
        region = "eu-west-1" if provider.id.endswith("europe") else "us-east-1"
        assert region in str(made.base_url)


@pytest.mark.parametrize("has_calls", [True, False])
def test_bedrock_takes_a_conversation_with_calls_to_be_summarised(has_calls):
    seen: list[dict[str, Any]] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        seen.append(json.loads(await reader.readexactly(length)))
        body = b'{"message": "seen"}'
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        writer.close()

    call = ToolCallPart(ToolCallData(id="c1", name="ls", input="{}", finished=True))
    result = ToolResultPart(ToolResultData(tool_call_id="c1", name="ls", content="a b"))
    called = [
        Message(id="a", session_id="s1", role="assistant", parts=[call]),
        Message(id="t", session_id="s1", role="tool", parts=[result]),
    ]
    said = [user("hi"), *(called if has_calls else []), user("summarise", "u2")]

    async def main() -> None:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        model = Model(id="anthropic.claude-sonnet-4-5-20250929-v1:0")
        where = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        provider = provider_of("bedrock", base_url=where, api_key="", models=[model])
        account = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
        config = WorkspaceConfig(
            {"p": provider}, {"large": SelectedModel(model=model.id, provider="p")}, (), Options(), {}, "", (), (), ()
        )
        models = ModelRegistry(config, account, DEFAULT_LIMITS, seeded(), LOG)
        async with server:
            with pytest.raises(ModelFailure, match="seen"):
                await collect(models.large(), ModelRequest("be good", said))
        await models.close()

    run(main())
    (body,) = seen
    assert ("toolConfig" in body) == has_calls, "a provider refuses calls without it"
    if has_calls:
        assert body["additionalModelRequestFields"]["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize(
    ("env", "there", "default"),
    [
        ({"GEMINI_API_KEY": "g"}, "gemini", "gemini"),
        ({"AWS_PROFILE": "me"}, "bedrock", BUILTIN_ID),  # an account for other things is no choice of a model
        ({"VERTEXAI_PROJECT": "me"}, "vertexai", BUILTIN_ID),
        ({"AZURE_OPENAI_API_KEY": "a", "AZURE_OPENAI_ENDPOINT": "https://me"}, "azure", "azure"),
        ({"AWS_BEARER_TOKEN_BEDROCK": "b"}, "bedrock", "bedrock"),
    ],
)
def test_clouds_are_there_with_their_own_credentials(env, there, default):
    found = resolve({}, {}, use_known=True, default_model="", env=env, run=lambda _: "")
    assert set(found.providers) == {there, BUILTIN_ID}
    assert found.models["large"].provider == default


def test_a_missing_key_is_named_by_its_variable():
    with pytest.raises(BadInput, match=r"set ANTHROPIC_API_KEY or providers\.anthropic\.api_key"):
        resolve({}, {}, use_known=True, default_model="anthropic/claude-x", env={}, run=lambda _: "")
    wanted = {"large": SelectedModel(model="gpt-x", provider="openai")}
    found = resolve({"openai": ProviderConfig()}, wanted, use_known=True, default_model="", env={}, run=lambda _: "")
    assert all("set OPENAI_API_KEY or providers.openai.api_key" in warning for warning in found.warnings)
    assert len(found.warnings) == 2
