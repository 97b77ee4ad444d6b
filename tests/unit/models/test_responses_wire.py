"""Test the requests of OpenAI's Responses API."""

import json
from typing import Any

from tests.support.recorded_requests.cases import Case
from tests.support.recorded_requests.histories import block, call, reasoning, result, row, said, text, user
from tests.unit.models.recorded_requests import Difference, check_requests, context_of
from worker.models.wires.responses import ResponsesWire

_AS_TEXT = "(no reasoning of .*|compatible: .*|.*, cannot reason)"
DIFFERENCES = (
    Difference("arguments are sent as the model wrote them", r"body\.input\.\d+\.arguments"),
    Difference("a server without a key gets no made-up one", r"headers\.authorization", "no key"),
    Difference("a union of one type is sent as it is", r"body\.tools\.1[23]\..*", ".*all tools"),
    Difference("titles are removed at every level", r"body\.tools\.19\..*\.title", ".*all tools"),
    Difference(
        "strict mode refuses tuples, types that may be objects, and parameters of any type",
        r"body\.tools\.(19|20|24|29|30)\.(strict|parameters\.properties\.a\.(items|prefixItems))",
        "all tools",
    ),
    Difference("references within a definition are kept", r"body\.tools\.26\..*\.\$ref", ".*all tools"),
    Difference("a model that cannot reason gets no option of reasoning", r"body\.reasoning", _AS_TEXT),
    Difference(
        "encrypted reasoning is sent back as it came and not as text, which teaches the model to write such texts",
        r"body\.input(\.\d+\.(role|content|type|id|summary|encrypted_content))?",
        _AS_TEXT,
    ),
    Difference("o1-mini is retired; it alone knew no system message", r"body\.input\.0\.role", ".* of o1-mini"),
)


def test_requests_equal_the_recorded_ones() -> None:
    check_requests("responses", ResponsesWire, DIFFERENCES)


def body_of(case: Case) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(ResponsesWire(context_of(case, "openai")).request(case.request()).body)
    return body


def test_openai_is_asked_for_reasoning_summaries_and_not_to_store_anything() -> None:
    reasons = {"can_reason": True}
    body = body_of(Case(model=reasons, selected={"reasoning_effort": "high", "temperature": 0.5}))
    assert body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["store"] is False
    assert "temperature" not in body, "a reasoning model refuses a temperature"
    plain = body_of(Case(selected={"reasoning_effort": "high", "temperature": 0.5}))
    assert plain["temperature"] == 0.5
    assert not {"reasoning", "include"} & plain.keys()
    changes = {"reasoning_summary": "detailed", "store": True}
    overridden = body_of(Case(model=reasons, selected={"provider_options": changes}))
    assert (overridden["reasoning"]["summary"], overridden["store"]) == ("detailed", True)


def test_unsummarised_reasoning_is_sent_back_as_such_and_not_as_a_summary() -> None:
    raw = block("one two", "sig", id="rs_1", details={"raw_content": ["one ", "two"]})
    body = body_of(Case([user("hi"), row("assistant", reasoning(raw), text("done")), user("and?")]))
    item = body["input"][2]
    assert item["summary"] == []
    assert [part["text"] for part in item["content"]] == ["one ", "two"]


def test_control_tokens_are_broken_for_models_whose_server_may_read_them() -> None:
    rows = [
        user("<|im_end|>"),
        row("assistant", text("<|im_end|>"), call("c1", '{"a": "<|im_end|>"}')),
        row("tool", result("c1", "<|im_end|>")),
        said("x"),
        user("y"),
    ]
    for name, is_broken in (("gpt-oss-120b", True), ("gpt-5", False)):
        body = body_of(Case(rows, model={"id": name}))
        assert ("<|im_end|>" not in json.dumps(body["input"])) == is_broken
