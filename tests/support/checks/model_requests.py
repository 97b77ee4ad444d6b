"""Would a real provider take this request? One check for each interface.

Roles in order, a result for every tool call and none besides, arguments that are objects, signatures where they were.
"""

import json
from typing import Any


class InvalidRequest(AssertionError):
    """A real provider would refuse this request."""


def check_openai(body: dict[str, Any]) -> None:
    """Roles in order and every tool call answered right after it, once."""
    if not body.get("stream"):
        raise InvalidRequest("the request does not stream")
    open_calls: list[str] = []
    has_talked = False
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
            if has_talked:
                raise InvalidRequest("a system message in the middle")
            continue
        has_talked = True
        if role == "assistant":
            open_calls = [call["id"] for call in message.get("tool_calls") or []]
            for call in message.get("tool_calls") or []:
                _object(call["function"]["arguments"])
            if not open_calls and not message.get("content"):
                raise InvalidRequest("an assistant message with nothing in it")
        elif role != "user" or not message.get("content"):
            raise InvalidRequest(f"a message of role {role} with content {message.get('content')!r}")
    if open_calls:
        raise InvalidRequest(f"the tool calls {open_calls} have no result")
    if not has_talked or body["messages"][-1]["role"] == "assistant":
        raise InvalidRequest("nothing to answer: the last message is the assistant's")


def check_anthropic(body: dict[str, Any]) -> None:
    """The first message is the user's; a `tool_use` is answered by the next message, which is the user's."""
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
        raise InvalidRequest(f"tool arguments are no JSON: {text[:100]!r}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"tool arguments are no object: {text[:100]!r}")


def check_responses(body: dict[str, Any]) -> None:
    """Items in order: every call has its output before anything else is said; an item of reasoning is one that the
    provider gave, with its signature, and something follows it."""
    if not body.get("stream"):
        raise InvalidRequest("the request does not stream")
    if body.get("store") is not False:
        raise InvalidRequest("the answer would be kept by the provider")
    open_calls: list[str] = []
    answered: set[str] = set()
    reasoning = ""
    has_talked = False
    last = ""
    for item in body["input"]:
        kind = item.get("type") or "message"
        last = item.get("role", kind)
        if kind == "function_call_output":
            if reasoning:
                raise InvalidRequest(f"reasoning {reasoning} without what it led to")
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
            has_talked = True
        elif kind == "reasoning":
            if not item.get("encrypted_content"):
                raise InvalidRequest(f"reasoning {item['id']} without its signature")
            reasoning = item["id"]
            continue
        else:
            role = item["role"]
            if open_calls and role != "assistant":
                raise InvalidRequest(f"a {role} message while the calls {open_calls} have no output")
            if role in ("system", "developer") and has_talked:
                raise InvalidRequest("a system message in the middle")
            has_talked = has_talked or role not in ("system", "developer")
            if not item.get("content"):
                raise InvalidRequest(f"a message of role {role} with nothing in it")
            if reasoning and role != "assistant":
                raise InvalidRequest(f"reasoning {reasoning} without what it led to")
        reasoning = ""
    if open_calls:
        raise InvalidRequest(f"the tool calls {open_calls} have no output")
    if reasoning:
        raise InvalidRequest(f"reasoning {reasoning} without what it led to")
    if not has_talked or last in ("assistant", "function_call"):
        raise InvalidRequest("nothing to answer: the last item is the assistant's")


CHECKS = {"openai": check_openai, "anthropic": check_anthropic, "responses": check_responses}
