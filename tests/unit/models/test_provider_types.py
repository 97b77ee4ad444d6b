"""Test the types of providers: how each is reached, and the errors of unknown and missing ones."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from protocol.api.message import Message, ToolCallData, ToolCallPart, ToolResultData, ToolResultPart
from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.errors import BadInput
from protocol.limits import DEFAULT_LIMITS
from tests.support.fakes.scripted_provider import API_KEY
from tests.unit.agent.agent_harness import user
from tests.unit.models.test_remote import collect, open_client
from worker.config.catalogue import BUILTIN_ID
from worker.config.discover import LOCAL_TYPES
from worker.config.load import WorkspaceConfig
from worker.config.resolve import resolve
from worker.config.schema import Options
from worker.models.client import Finished, ModelEvent, ModelFailure, ModelRequest, TextDelta, ThinkingDelta
from worker.models.extras import clients
from worker.models.registry import ModelRegistry
from worker.models.wire_choice import APIS, api_of

if TYPE_CHECKING:
    import httpx2


@pytest.fixture(autouse=True)
def allow_loopback() -> Iterator[None]:
    """Allow requests of the model library, which the suite forbids: here a part of the test answers them."""
    from pydantic_ai.models import override_allow_model_requests

    with override_allow_model_requests(True):
        yield


MODEL = Model(id="m")
CHOICE = SelectedModel(model="m", provider="p")


def provider_of(kind: str, **changes: Any) -> ProviderConfig:
    return ProviderConfig(**{"id": "p", "type": kind, "base_url": "http://x/v1", "api_key": "k", **changes})


def test_an_unknown_type_is_refused_with_a_list_of_the_supported_ones() -> None:
    with pytest.raises(BadInput) as caught:
        api_of(provider_of("unknown"), MODEL, CHOICE)
    assert "'unknown' is not supported" in caught.value.message
    for kind in APIS:
        assert kind in caught.value.message


@pytest.mark.parametrize(("kind", "extra"), [("google", "google"), ("google-vertex", "google"), ("bedrock", "bedrock")])
def test_a_missing_library_is_named_with_how_to_install_it(
    kind: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=rf"install bulkhead-agents\[{extra}\]"):
        api_of(provider_of(kind), MODEL, CHOICE)


def test_the_interface_of_openai_can_be_chat_or_responses() -> None:
    assert api_of(provider_of("openai"), MODEL, CHOICE) == "responses"
    chat = {"provider_options": {"api": "chat"}}
    assert api_of(provider_of("openai", **chat), MODEL, CHOICE) == "chat"
    assert api_of(provider_of("openai-compat", provider_options={"api": "responses"}), MODEL, CHOICE) == "responses"
    for kind, api in (("anthropic", "chat"), ("openai", "other")):
        with pytest.raises(BadInput, match="chat or responses"):
            api_of(provider_of(kind, provider_options={"api": api}), MODEL, CHOICE)


@pytest.mark.parametrize("kind", sorted({*LOCAL_TYPES, "openai-compat", "vercel", "hyper"}))
async def test_compatible_servers_are_asked_over_chat_completions_with_max_tokens(kind: str) -> None:
    async with open_client("openai", type=kind) as (provider, client):
        task = asyncio.create_task(collect(client))
        exchange = await provider.next_call()
        await exchange.reply("x")
        await task
        assert exchange.dialect == "openai"
        assert exchange.body["max_tokens"] == 1000
        assert exchange.headers["authorization"] == f"Bearer {API_KEY}"


@pytest.mark.parametrize(
    ("name", "sent"),
    [("openai/gpt-oss-120b", "openai/gpt-oss-120b:exacto"), ("qwen/qwen3-coder:free", "qwen/qwen3-coder:free")],
)
async def test_openrouter_is_asked_for_the_exacto_variant_of_models_that_have_one(name: str, sent: str) -> None:
    changes: dict[str, Any] = {"model": {"id": name}, "selected": {"model": name}}
    async with open_client("openai", type="openrouter", **changes) as (provider, client):
        task = asyncio.create_task(collect(client))
        exchange = await provider.next_call()
        await exchange.reply("x")
        await task
        assert exchange.body["model"] == sent
        assert client.model.id == name


async def test_openai_can_be_asked_over_chat_and_a_compatible_server_over_responses() -> None:
    for dialect, api in (("responses", "chat"), ("openai", "responses")):
        async with open_client(dialect, provider_options={"api": api}) as (provider, client):
            task = asyncio.create_task(collect(client))
            exchange = await provider.next_call()
            assert exchange.dialect == ("openai" if api == "chat" else "responses")
            assert "api" not in exchange.body
            await exchange.reply("x")
            assert isinstance((await task)[-1], Finished)


async def sent_by(
    provider: ProviderConfig,
    answer: bytes,
    env: dict[str, str] | None = None,
    messages: Sequence[Message] = (),
) -> tuple["httpx2.Request", list[ModelEvent]]:
    """Return the one request that the provider receives, and the events of its answer."""
    import httpx2

    requests: list[httpx2.Request] = []

    def reply(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=answer)

    selected = SelectedModel(model=provider.models[0].id, provider="p", reasoning_effort="low")
    config = WorkspaceConfig({"p": provider}, {"large": selected}, (), Options(), {}, "", (), (), ())
    transport = httpx2.MockTransport(reply)
    models = ModelRegistry(config, env or {}, DEFAULT_LIMITS, transport=transport)
    events = await collect(models.large(), ModelRequest("be good", messages or [user("hi")]))
    await models.close()
    assert len(requests) == 1
    return requests[0], events


def gemini(**changes: Any) -> ProviderConfig:
    model = Model(id="gemini-3.8-flash", can_reason=True)
    return provider_of("google", base_url="https://generativelanguage.googleapis.com", models=[model], **changes)


def gemini_answer(parts: Sequence[Mapping[str, object]]) -> bytes:
    chunk = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
        "modelVersion": "gemini-3.8-flash",
        "responseId": "r",
    }
    return f"data: {json.dumps(chunk)}\r\n\r\n".encode()


async def test_gemini_is_asked_with_its_headers_and_its_answer_is_read() -> None:
    parts: list[dict[str, object]] = [{"text": "hm", "thought": True}, {"text": "hello"}]
    request, events = await sent_by(gemini(extra_headers={"x-team": "seven"}), gemini_answer(parts))
    assert "gemini-3.8-flash:streamGenerateContent" in str(request.url)
    assert request.headers["x-goog-api-key"] == "k"
    assert request.headers["x-session-id"]
    assert request.headers["x-team"] == "seven"
    body = json.loads(request.content)
    assert body["generationConfig"]["thinkingConfig"] == {"include_thoughts": True, "thinking_level": "LOW"}
    assert ThinkingDelta("hm") in events
    assert TextDelta("hello") in events
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "end_turn"
    assert events[-1].tokens.input == 3


def test_bedrock_is_reached_with_a_key_or_with_the_credentials_of_the_account() -> None:
    account = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    for provider, env in (
        (provider_of("bedrock", base_url=""), {}),
        (provider_of("bedrock", base_url="", api_key="", id="bedrock-europe"), account),
    ):
        model = clients.make_model(
            "bedrock", provider, MODEL, http=lambda: pytest.fail("not used"), env=env, limits=DEFAULT_LIMITS
        )
        assert model.system == "bedrock"
        region = "eu-west-1" if provider.id.endswith("europe") else "us-east-1"
        assert region in str(model.base_url)


@pytest.mark.parametrize("has_calls", [True, False])
async def test_a_conversation_with_calls_is_sent_to_bedrock_with_a_tool_configuration(has_calls: bool) -> None:
    requests: list[dict[str, Any]] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        requests.append(json.loads(await reader.readexactly(length)))
        body = b'{"message": "seen"}'
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        writer.close()

    call = ToolCallPart(ToolCallData(id="c1", name="ls", input="{}", finished=True))
    result = ToolResultPart(ToolResultData(tool_call_id="c1", name="ls", content="a b"))
    tool_step = [
        Message(id="a", session_id="s1", role="assistant", parts=[call]),
        Message(id="t", session_id="s1", role="tool", parts=[result]),
    ]
    messages = [user("hi"), *(tool_step if has_calls else []), user("summarise", "u2")]

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    model = Model(id="anthropic.claude-sonnet-4-5-20250929-v1:0")
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    provider = provider_of("bedrock", base_url=url, api_key="", models=[model])
    account = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    config = WorkspaceConfig(
        {"p": provider}, {"large": SelectedModel(model=model.id, provider="p")}, (), Options(), {}, "", (), (), ()
    )
    models = ModelRegistry(config, account, DEFAULT_LIMITS)
    async with server:
        with pytest.raises(ModelFailure, match="seen"):
            await collect(models.large(), ModelRequest("be good", messages))
    await models.close()
    (body,) = requests
    assert ("toolConfig" in body) == has_calls, "Bedrock refuses a conversation with calls but without tools"
    if has_calls:
        assert body["additionalModelRequestFields"]["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize(
    ("env", "provider", "default"),
    [
        ({"GEMINI_API_KEY": "g"}, "gemini", "gemini"),
        (
            {"AWS_PROFILE": "me"},
            "bedrock",
            BUILTIN_ID,
        ),  # an AWS account alone selects no model
        ({"VERTEXAI_PROJECT": "me"}, "vertexai", BUILTIN_ID),
        ({"AZURE_OPENAI_API_KEY": "a", "AZURE_OPENAI_ENDPOINT": "https://me"}, "azure", "azure"),
        ({"AWS_BEARER_TOKEN_BEDROCK": "b"}, "bedrock", "bedrock"),
    ],
)
def test_cloud_providers_are_available_when_their_credentials_are_set(
    env: dict[str, str], provider: str, default: str
) -> None:
    resolved = resolve({}, {}, use_known=True, default_model="", env=env, run=lambda _: "")
    assert set(resolved.providers) == {provider, BUILTIN_ID}
    assert resolved.models["large"].provider == default


def test_a_missing_key_is_named_by_its_variable() -> None:
    with pytest.raises(BadInput, match=r"set ANTHROPIC_API_KEY or providers\.anthropic\.api_key"):
        resolve({}, {}, use_known=True, default_model="anthropic/claude-x", env={}, run=lambda _: "")
    selected = {"large": SelectedModel(model="gpt-x", provider="openai")}
    resolved = resolve(
        {"openai": ProviderConfig()}, selected, use_known=True, default_model="", env={}, run=lambda _: ""
    )
    assert "set OPENAI_API_KEY or providers.openai.api_key" in resolved.problem
