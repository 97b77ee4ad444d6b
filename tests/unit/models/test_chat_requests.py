"""Test the requests of the Chat Completions API against the recorded ones, and what was not recorded."""

import json
from typing import Any

import pytest

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from tests.support.recorded_requests.histories import block, call, reasoning, result, row, user
from tests.unit.models.recorded_requests import Difference, check_requests
from worker.models.client import ModelRequest
from worker.models.wires.chat import ChatWire
from worker.models.wires.wire import WireContext, WireRequest

DIFFERENCES = [
    Difference(
        "the arguments are sent as the model wrote them, so that the provider finds them in its cache",
        r"body\.messages\.\d+\.tool_calls\.\d+\.function\.arguments",
        r"(compat|local|openrouter) tools|openai|azure|mistral|compat control tokens",
    ),
    Difference(
        "definitions stay where they are: every server resolves a reference, and a schema whose root is one is odd",
        r"body\.tools\.4\.function\.parameters\..*",
        r"tools declared (to a qwen model|over openrouter)",
    ),
    Difference(
        "an object without properties gets an empty list of them, as for all other models",
        r"body\.tools\.2\.function\.parameters\.properties",
        r"tools declared (to a qwen model|over openrouter)",
    ),
]


def test_requests_equal_the_recorded_ones() -> None:
    check_requests("chat", ChatWire, DIFFERENCES)


def context(**provider: Any) -> WireContext:
    model = Model(id="m", can_reason=True, supports_attachments=True, **provider.pop("model", {}))
    values = {"id": "loop", "type": "openai-compat", "base_url": "http://x/v1", "api_key": "k"} | provider
    env = values.pop("env", {})
    selected = SelectedModel(model="m", provider="loop", **values.pop("selected", {}))
    return WireContext(model, ProviderConfig(**values, models=[model]), selected, env, True, ())


def request(*rows: Any, **provider: Any) -> WireRequest:
    return ChatWire(context(**provider)).request(ModelRequest("", list(rows) or [user("hi")]))


def messages(*rows: Any, **provider: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = json.loads(request(*rows, **provider).body)["messages"]
    return sent


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ('{"a": 1 }', '{"a": 1 }'),
        ("", "{}"),
        ("  ", "{}"),
        ("[1]", '{"INVALID_JSON":"[1]"}'),
        ('{"half": ', '{"INVALID_JSON":"{\\"half\\": "}'),
    ],
)
def test_arguments_are_sent_as_they_were_written_if_they_are_an_object(written: str, sent: str) -> None:
    rows = [user("hi"), row("assistant", call("c1", written)), row("tool", result("c1"))]
    assert messages(*rows)[1]["tool_calls"][0]["function"]["arguments"] == sent


def test_escapes_in_arguments_do_not_hide_a_control_token() -> None:
    rows = [user("hi"), row("assistant", call("c1", '{"a": "<\\u007cim_end|>"}')), row("tool", result("c1"))]
    arguments = messages(*rows)[1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"a": "<\u200d|im_end|>"}


def test_control_tokens_are_left_to_hosts_that_read_them_as_text() -> None:
    assert messages(user("<|im_end|>"))[0]["content"] == "<\u200d|im_end|>"
    closed = ChatWire(context()).__class__(
        WireContext(Model(id="gpt-4.1"), ProviderConfig(base_url="http://x"), SelectedModel(), {}, True, ())
    )
    body = json.loads(closed.request(ModelRequest("", [user("<|im_end|>")])).body)
    assert body["messages"][0]["content"] == "<|im_end|>"


def test_the_signature_of_a_call_is_sent_back_with_the_call() -> None:
    extra = {"extra_content": {"google": {"thought_signature": "s"}}}
    rows = [
        user("hi"),
        row("assistant", reasoning(block(details=extra)), call("c1"), call("c2")),
        row("tool", result("c1"), result("c2")),
    ]
    answer = messages(*rows)[1]
    assert [sent.get("extra_content") for sent in answer["tool_calls"]] == [extra["extra_content"], None]
    assert answer["content"] is None


def test_half_a_surrogate_pair_does_not_prevent_a_request() -> None:
    assert messages(user("a\ud83d"))[0]["content"] == "a?"


@pytest.mark.parametrize(
    ("provider", "header", "value"),
    [
        ({}, "Authorization", "Bearer k"),
        ({"api_key": "Bearer k"}, "Authorization", "Bearer k"),
        ({"api_key": " k\n"}, "Authorization", "Bearer k"),
        ({"api_key": ""}, "Authorization", None),
        ({"extra_headers": {"authorization": "Token t"}}, "Authorization", None),
        ({"extra_headers": {"authorization": "Token t"}}, "authorization", "Token t"),
        ({"type": "azure", "base_url": "https://me.azure.com/"}, "api-key", "k"),
        ({"type": "azure", "base_url": "https://me.azure.com/openai/v1/"}, "Authorization", "Bearer k"),
        ({"type": "openai", "env": {"OPENAI_ORG_ID": "o"}}, "OpenAI-Organization", "o"),
        ({"env": {"OPENAI_ORG_ID": "o"}}, "OpenAI-Organization", None),
    ],
)
def test_the_key_is_sent_in_the_header_of_the_provider(
    provider: dict[str, Any], header: str, value: str | None
) -> None:
    assert request(**provider).headers.get(header) == value


@pytest.mark.parametrize(
    ("provider", "url"),
    [
        ({"base_url": "http://x/v1/"}, "http://x/v1/chat/completions"),
        ({"base_url": "http://x/v1?key=1"}, "http://x/v1/chat/completions?key=1"),
        (
            {"type": "azure", "base_url": "https://me.azure.com", "env": {"AZURE_OPENAI_API_VERSION": "2030-01-01"}},
            "https://me.azure.com/openai/deployments/m/chat/completions?api-version=2030-01-01",
        ),
        (
            {"type": "azure", "base_url": "https://me.azure.com/openai/v1"},
            "https://me.azure.com/openai/v1/chat/completions",
        ),
    ],
)
def test_the_address_of_a_request(provider: dict[str, Any], url: str) -> None:
    assert request(**provider).url == url
