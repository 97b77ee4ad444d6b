"""Check the order of the events within a run that clients rely on, as one stream received them."""

from collections.abc import Sequence
from typing import Any

from tests.support.checks.history import Seen


def check_order(seen: Sequence[Seen]) -> None:
    """Check the events of one stream, in the order of arrival. Raises AssertionError."""
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
            ended.setdefault(payload["session_id"], "")  # all message events come before this one


def _message(event: Seen, messages: dict[str, dict[str, Any]], called: set[str], ended: dict[str, str]) -> None:
    message = event.payload
    previous = messages.get(message["id"])
    if event.change == "created":
        assert previous is None, f"created twice: {message}"
        if message["role"] == "user":
            ended.pop(message["session_id"], None)
    else:
        assert previous is not None, f"{event.change} before it was created: {message}"
        old, new = _of(previous, "text"), _of(message, "text")
        assert not old or (new and new[0]["text"].startswith(old[0]["text"])), f"the text shrinks: {previous} {message}"
        kinds, before = ([part["type"] for part in each["parts"]] for each in (message, previous))
        assert [kind for kind in kinds if kind in before][: len(before)] == before, f"parts move: {before} {kinds}"
    assert message["session_id"] not in ended, f"a message event after the run has ended: {message}"
    messages[message["id"]] = message
    called.update(call["id"] for call in _of(message, "tool_call"))
    for result in _of(message, "tool_result"):
        assert result["tool_call_id"] in called, f"a result before its call: {message}"


def _of(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [part["data"] for part in message["parts"] if part["type"] == kind]
