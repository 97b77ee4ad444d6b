"""The order of events inside one run that clients rely on (http-api 4.4), checked on what one stream saw."""

from collections.abc import Sequence
from typing import Any

from tests.support.checks.history import Seen


def check_order(seen: Sequence[Seen]) -> None:
    """AssertionError when a rule is broken; of one stream, in the order of arrival."""
    messages: dict[str, dict[str, Any]] = {}
    called: set[str] = set()
    ended: dict[str, str] = {}  # session -> the message that its last run ended with
    for event in seen:
        payload = event.payload
        if event.kind == "message":
            _message(event, messages, called, ended)
        elif event.kind == "run_complete":
            last = messages.get(payload["message_id"])
            if last is not None:
                assert _of(last, "finish"), f"the run ends before its last message has: {last}"
                texts = _of(last, "text")
                assert payload.get("text", "") == (texts[0]["text"] if texts else ""), (payload, last)
                ended[payload["session_id"]] = payload["message_id"]
        elif event.kind == "agent_event" and payload["type"] == "agent_finished":
            ended.setdefault(payload["session_id"], "")  # what was said is out before it is told that all is said


def _message(event: Seen, messages: dict[str, dict[str, Any]], called: set[str], ended: dict[str, str]) -> None:
    message = event.payload
    known = messages.get(message["id"])
    if event.change == "created":
        assert known is None, f"created twice: {message}"
        if message["role"] == "user":
            ended.pop(message["session_id"], None)
    else:
        assert known is not None, f"{event.change} before it was created: {message}"
        was, now = _of(known, "text"), _of(message, "text")
        assert not was or (now and now[0]["text"].startswith(was[0]["text"])), f"the text shrinks: {known} {message}"
        kinds, before = ([part["type"] for part in each["parts"]] for each in (message, known))
        assert [kind for kind in kinds if kind in before][: len(before)] == before, f"parts move: {before} {kinds}"
    assert message["session_id"] not in ended, f"a message event after the run has ended: {message}"
    messages[message["id"]] = message
    called.update(call["id"] for call in _of(message, "tool_call"))
    for result in _of(message, "tool_result"):
        assert result["tool_call_id"] in called, f"a result before its call: {message}"


def _of(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [part["data"] for part in message["parts"] if part["type"] == kind]
