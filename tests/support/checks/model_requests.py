"""Check that a real provider would accept a request, for each of the three interfaces.

The rules: roles in order, exactly one result per tool call, arguments that are objects, signatures preserved.
"""

import json
from typing import Any


class InvalidRequest(AssertionError):
    """Raised for a request that a real provider would reject."""


def check_openai(body: dict[str, Any]) -> None:
    """Check that roles are in order and each tool call is directly followed by exactly one result."""
    if not body.get("stream"):
        raise InvalidRequest("the request does not stream")
    open_calls: list[str] = []
    has_conversation = False
    for message in body["messages"]:
        role = message["role"]
        if role == "tool":
            if message["tool_call_id"] not in open_calls:
                raise InvalidRequest(f"a result for {message['tool_call_id']}, which is not open")
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            raise InvalidRequest(f"a {role} message while the tool calls {open_calls} have no result")
        if role in ("system", "developer"):
            if has_conversation:
                raise InvalidRequest("a system message in the middle")
            continue
        has_conversation = True
        if role == "assistant":
            open_calls = [call["id"] for call in message.get("tool_calls") or []]
            for call in message.get("tool_calls") or []:
                _object(call["function"]["arguments"])
            if not open_calls and not message.get("content"):
                raise InvalidRequest("an empty assistant message")
        elif role != "user" or not message.get("content"):
            raise InvalidRequest(f"a message of role {role} with content {message.get('content')!r}")
    if open_calls:
        raise InvalidRequest(f"the tool calls {open_calls} have no result")
    if not has_conversation or body["messages"][-1]["role"] == "assistant":
        raise InvalidRequest("nothing to answer: the last message is the assistant's")


def check_anthropic(body: dict[str, Any]) -> None:
    """Check that the first and last message are the user's and each `tool_use` has its result in the next message."""
    if not body.get("stream"):
        raise InvalidRequest("the request does not stream")
    messages = body["messages"]
    if not messages or messages[0]["role"] != "user" or messages[-1]["role"] != "user":
        raise InvalidRequest("the first and the last message must be the user's")
    open_calls: set[str] = set()
    for message in messages:
        blocks = message["content"] if isinstance(message["content"], list) else [{"type": "text"}]
        results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if not blocks:
            raise InvalidRequest("a message without content")
        if results != open_calls:
            raise InvalidRequest(f"results for {results} where {open_calls} are open")
        if message["role"] == "assistant" and blocks[-1]["type"] in ("thinking", "redacted_thinking"):
            raise InvalidRequest("an answer that ends with thinking")
        if any(block["type"] == "thinking" and not block.get("signature") for block in blocks):
            raise InvalidRequest("thinking without its signature")
        open_calls = {block["id"] for block in blocks if block["type"] == "tool_use"}
        if open_calls and message["role"] != "assistant":
            raise InvalidRequest("a tool call of the user")
    if open_calls:
        raise InvalidRequest(f"the tool calls {open_calls} have no result")


def _object(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"tool arguments are not JSON: {text[:100]!r}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"tool arguments are not an object: {text[:100]!r}")


def check_responses(body: dict[str, Any]) -> None:
    """Check that items are in order: each call has its output before any other item, and each reasoning item has its
    signature and is followed by the item that it led to."""
    if not body.get("stream"):
        raise InvalidRequest("the request does not stream")
    if body.get("store") is not False:
        raise InvalidRequest("the provider would store the answer")
    open_calls: list[str] = []
    answered: set[str] = set()
    reasoning = ""
    has_conversation = False
    last = ""
    for item in body["input"]:
        kind = item.get("type") or "message"
        last = item.get("role", kind)
        if kind == "function_call_output":
            if reasoning:
                raise InvalidRequest(f"reasoning {reasoning} without the item it led to")
            if item["call_id"] not in open_calls:
                raise InvalidRequest(f"an output for {item['call_id']}, which is not open")
            open_calls.remove(item["call_id"])
            answered.add(item["call_id"])
        elif kind == "function_call":
            if answered and open_calls:
                raise InvalidRequest(f"a call while {open_calls} have no output")
            _object(item["arguments"])
            open_calls.append(item["call_id"])
            answered = set()
            has_conversation = True
        elif kind == "reasoning":
            if not item.get("encrypted_content"):
                raise InvalidRequest(f"reasoning {item['id']} without its signature")
            reasoning = item["id"]
            continue
        else:
            role = item["role"]
            if open_calls and role != "assistant":
                raise InvalidRequest(f"a {role} message while the calls {open_calls} have no output")
            if role in ("system", "developer") and has_conversation:
                raise InvalidRequest("a system message in the middle")
            has_conversation = has_conversation or role not in ("system", "developer")
            if not item.get("content"):
                raise InvalidRequest(f"a message of role {role} without content")
            if reasoning and role != "assistant":
                raise InvalidRequest(f"reasoning {reasoning} without the item it led to")
        reasoning = ""
    if open_calls:
        raise InvalidRequest(f"the tool calls {open_calls} have no output")
    if reasoning:
        raise InvalidRequest(f"reasoning {reasoning} without the item it led to")
    if not has_conversation or last in ("assistant", "function_call"):
        raise InvalidRequest("nothing to answer: the last item is the assistant's")


CHECKS = {"openai": check_openai, "anthropic": check_anthropic, "responses": check_responses}
