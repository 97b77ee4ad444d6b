"""Warm up what the first request to a real model needs: imports, TLS certificates, encoders and decoders.

Makes one request of each API in memory and decodes an answer. No thread, socket or loop may be left behind, since forks
would inherit it.
"""

import importlib
from collections.abc import Mapping

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
from worker.models.client import ModelRequest
from worker.models.transport.sse import EventParser
from worker.models.wires.anthropic import AnthropicWire
from worker.models.wires.chat import ChatWire
from worker.models.wires.responses import ResponsesWire
from worker.models.wires.wire import Wire, WireContext
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
    """Load and run everything that a request to a real model needs."""
    shared_tls()
    importlib.import_module("worker.models.transport.connections")
    _run(ChatWire(_context("openai-compat")), _OPENAI_ANSWER)
    _run(ResponsesWire(_context("openai")), _RESPONSES_ANSWER)
    _run(AnthropicWire(_context("anthropic")), _ANTHROPIC_ANSWER)


def _run(wire: Wire, answer: bytes) -> None:
    wire.request(_request())
    decoder = wire.decoder()
    for name, data in EventParser().feed(answer):
        decoder.event(name, data)
    decoder.end()


def _context(kind: str) -> WireContext:
    model = Model(id="warm/warm")
    provider = ProviderConfig(id="warm", type=kind, base_url="http://127.0.0.1:9/v1", api_key="warm", models=[model])
    selected = SelectedModel(model=model.id, provider="warm")
    return WireContext(model=model, provider=provider, selected=selected, env={}, caches=True, secrets=())


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
