"""Warm up the model libraries in the zygote: imports, schemas and caches that the first request would else pay for.

Makes one streamed call per kind of provider through a transport that answers from memory, on a loop of its own that is
closed afterwards. No thread, socket or loop may be left behind, since forks would inherit it.
"""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from protocol.api.message import (
    Message,
    ReasoningBlock,
    ReasoningData,
    ReasoningPart,
    TextData,
    TextPart,
    ToolCallData,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)
from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.limits import DEFAULT_LIMITS
from worker.config.load import WorkspaceConfig
from worker.config.schema import Options
from worker.models.client import ModelRequest
from worker.models.openai_patch import patch_openai
from worker.models.registry import ModelRegistry
from worker.web.tls import shared_tls

_OPENAI_ANSWER = (
    b'data: {"id":"w","object":"chat.completion.chunk","created":1,"model":"warm","choices":[{"index":0,"delta":'
    b'{"role":"assistant","content":"ok","tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":'
    b'"view","arguments":"{}"}}]},"finish_reason":null}]}\n\n'
    b'data: {"id":"w","object":"chat.completion.chunk","created":1,"model":"warm","choices":[{"index":0,"delta":{},'
    b'"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)
_RESPONSE = (
    '{"id":"w","object":"response","created_at":1,"model":"warm","status":"%s","output":[],"parallel_tool_calls":true,'
    '"tool_choice":"auto","tools":[],"usage":{"input_tokens":1,"input_tokens_details":{"cached_tokens":0},'
    '"output_tokens":1,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":2}}'
)
_RESPONSES_EVENTS = (
    f'{{"type":"response.created","sequence_number":1,"response":{_RESPONSE % "in_progress"}}}',
    '{"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"type":"message","id":"m","role":'
    '"assistant","status":"in_progress","content":[]}}',
    '{"type":"response.output_text.delta","sequence_number":3,"item_id":"m","output_index":0,"content_index":0,"delta":'
    '"ok","logprobs":[]}',
    '{"type":"response.output_item.added","sequence_number":4,"output_index":1,"item":{"type":"function_call","id":"f",'
    '"call_id":"c","name":"view","arguments":"","status":"in_progress"}}',
    '{"type":"response.function_call_arguments.done","sequence_number":5,"item_id":"f","output_index":1,"name":"view",'
    '"arguments":"{}"}',
    f'{{"type":"response.completed","sequence_number":6,"response":{_RESPONSE % "completed"}}}',
)
_RESPONSES_ANSWER = "".join(f"data: {event}\n\n" for event in _RESPONSES_EVENTS).encode()
_ANTHROPIC_ANSWER = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"w","type":"message","role":"assistant",'
    b'"model":"warm","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1'
    b"}}}\n\n"
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":'
    b'""}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":'
    b'"ok"}}\n\n'
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":1}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)


_ANSWERS = {"anthropic": _ANTHROPIC_ANSWER, "openai": _RESPONSES_ANSWER}


class WarmTool:
    """A tool as a model sees it."""

    name = "view"
    description = "Shows a file."
    schema: Mapping[str, object] = {
        "type": "object",
        "properties": {"file_path": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["file_path"],
    }


def warm_up() -> None:
    """Load and run everything that a request to a real model needs. Call it before any loop runs."""
    patch_openai()
    shared_tls()
    for kind in ("openai", "openai-compat", "openrouter", "anthropic"):
        asyncio.run(_ask(kind))


async def _ask(kind: str) -> None:
    import httpx2

    body = _ANSWERS.get(kind, _OPENAI_ANSWER)

    def answer(request: Any) -> Any:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    provider = ProviderConfig(
        id="warm", type=kind, base_url="http://127.0.0.1:9/v1", api_key="warm", models=[Model(id="warm/warm")]
    )
    selected = SelectedModel(model="warm/warm", provider="warm")
    config = WorkspaceConfig(
        providers={"warm": provider},
        models={"large": selected, "small": selected},
        allowed_tools=(),
        options=Options(),
        env={},
        hint="",
        warnings=(),
        files=(),
        secrets=(),
        data_dir=Path(),
    )
    models = ModelRegistry(config, {}, DEFAULT_LIMITS, transport=httpx2.MockTransport(answer))
    try:
        async with aclosing(models.large().stream(_request())) as events:
            async for _ in events:
                pass
    finally:
        await models.close()


def _request() -> ModelRequest:
    rows = [
        Message(id="1", session_id="w", role="user", parts=[TextPart(TextData(text="hello"))]),
        Message(
            id="2",
            session_id="w",
            role="assistant",
            parts=[
                ReasoningPart(ReasoningData(blocks=[ReasoningBlock(thinking="t", signature="s", provider="warm")])),
                TextPart(TextData(text="looking")),
                ToolCallPart(ToolCallData(id="c1", name="view", input="{}", finished=True)),
            ],
        ),
        Message(
            id="3",
            session_id="w",
            role="tool",
            parts=[ToolResultPart(ToolResultData(tool_call_id="c1", name="view", content="text"))],
        ),
    ]
    return ModelRequest(system="warm", messages=rows, tools=[WarmTool()], max_tokens=16)
