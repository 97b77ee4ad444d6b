"""Any stored conversation, however damaged, becomes one that providers accept."""

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.api.message import (
    BinaryData,
    BinaryPart,
    FinishData,
    FinishPart,
    Message,
    Part,
    ReasoningBlock,
    ReasoningData,
    ReasoningPart,
    ShellCommandData,
    ShellCommandPart,
    TextData,
    TextPart,
    ToolCallData,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)
from protocol.api.provider import Model, ProviderConfig, SelectedModel
from tests.support.checks.model_requests import CHECKS
from worker.agent.history import repair
from worker.agent.message_draft import calls_of, results_of
from worker.models.client import ModelRequest
from worker.models.wires.anthropic import AnthropicWire
from worker.models.wires.chat import ChatWire
from worker.models.wires.responses import ResponsesWire
from worker.models.wires.wire import WireContext

ids = st.sampled_from(["c1", "c2", "c3", "c4"])
texts = st.sampled_from(["", " ", "hello", "more words"])
inputs = st.sampled_from(["", "{}", '{"a": 1}'])
calls = st.builds(
    lambda call_id, text, finished: ToolCallPart(ToolCallData(id=call_id, name="ls", input=text, finished=finished)),
    ids,
    inputs,
    st.booleans(),
)
results = st.builds(
    lambda call_id, text, bad: ToolResultPart(
        ToolResultData(tool_call_id=call_id, name="ls", content=text, is_error=bad, data="!", mime_type="image/png")
    ),
    ids,
    texts,
    st.booleans(),
)
blocks = st.builds(
    ReasoningBlock,
    thinking=texts,
    signature=st.sampled_from(["", "sig"]),
    id=st.sampled_from(["", "rs_1", "rs_2"]),
    provider=st.sampled_from(["loop", "other", ""]),
    before_text=st.booleans(),
    calls_before=st.integers(0, 3),
)
reasonings = st.builds(
    lambda stored: ReasoningPart(ReasoningData(thinking="t", blocks=stored)), st.lists(blocks, max_size=2)
)
plain = st.builds(lambda text: TextPart(TextData(text=text)), texts)
finishes = st.just(FinishPart(FinishData(reason="end_turn", time=1)))
files = st.sampled_from(
    [
        BinaryPart(BinaryData(path="a.txt", mime_type="text/plain", data=b"x\xff")),
        BinaryPart(BinaryData(path="a.png", mime_type="image/png", data=b"png")),
        ShellCommandPart(ShellCommandData(command="ls", output="\x1b[31mred\x1b[0m", exit_code=1)),
    ]
)


def rows(role: Literal["user", "assistant", "tool"], parts: st.SearchStrategy[Part]) -> st.SearchStrategy[Message]:
    return st.builds(
        lambda chosen: Message(id="m", session_id="s", role=role, parts=chosen), st.lists(parts, max_size=4)
    )


messages = st.lists(
    st.one_of(
        rows("user", st.one_of(plain, files, finishes)),
        rows("assistant", st.one_of(plain, calls, reasonings, finishes)),
        rows("tool", st.one_of(results, finishes)),
    ),
    max_size=8,
)


@given(messages)
def test_each_call_is_directly_followed_by_its_result_and_no_other_result_exists(stored: list[Message]) -> None:
    repaired = repair(stored, "loop")
    open_calls: list[str] = []
    for message in repaired:
        result_ids = [result.tool_call_id for result in results_of(message)]
        assert result_ids == open_calls, "the results of a step follow it directly, in order, each once"
        open_calls = [call.id for call in calls_of(message)]
        assert len(set(open_calls)) == len(open_calls)
        assert all(call.finished and call.input for call in calls_of(message))
        assert (message.role == "tool") == bool(result_ids)
        assert message.parts, "no empty message is sent"
        for part in message.parts:
            assert not isinstance(part, FinishPart)
            if isinstance(part, ReasoningPart):
                assert all(block.provider == "loop" and (block.signature or block.id) for block in part.data.blocks)
    assert open_calls == []


@given(messages)
def test_a_second_repair_changes_nothing(stored: list[Message]) -> None:
    once = repair(stored, "loop")
    assert [message.parts for message in repair(once, "loop")] == [message.parts for message in once]


@given(messages)
def test_a_repair_keeps_all_texts(stored: list[Message]) -> None:
    def texts_of(rows: list[Message]) -> list[str]:
        return [
            part.data.text
            for row in rows
            if row.role in ("user", "assistant")
            for part in row.parts
            if isinstance(part, TextPart) and part.data.text.strip()
        ]

    assert texts_of(repair(stored, "loop")) == texts_of(stored)


@pytest.mark.parametrize("wire_format", ["openai", "responses", "anthropic"])
@given(stored=messages)
def test_a_repaired_history_is_a_valid_request_of_each_wire_format(wire_format: str, stored: list[Message]) -> None:
    kind, make = {
        "openai": ("openai-compat", ChatWire),
        "responses": ("openai", ResponsesWire),
        "anthropic": ("anthropic", AnthropicWire),
    }[wire_format]
    model = Model(id="m", can_reason=True)
    provider = ProviderConfig(id="loop", type=kind, base_url="http://x/v1", api_key="k", models=[model])
    wire = make(WireContext(model, provider, SelectedModel(model="m", provider="loop"), {}, True, ()))
    first = Message(id="u0", session_id="s", role="user", parts=[TextPart(TextData(text="begin"))])
    last = Message(id="u1", session_id="s", role="user", parts=[TextPart(TextData(text="go"))])
    request = ModelRequest("system", repair([first, *stored, last], "loop"))
    CHECKS[wire_format](json.loads(wire.request(request).body))
