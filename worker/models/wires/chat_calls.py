"""Assemble the tool calls of a chat completion from their deltas, whatever their shape.

Servers leave out the index, the id or both, repeat them in each delta or send them late, give every call the index 0,
send the name after the first arguments, a whole call at once, or its arguments as an object. The rules:

- an index names a call, unless the delta has a name and another id than the call of this index: then it is a new one;
- without an index the id does, without both a delta with a name begins a call, and one without continues the newest;
- the first name counts; arguments are joined.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from protocol.base.text import join_surrogates
from worker.models.client import ModelEvent, ThinkingEnd, ToolCallEnd, ToolCallStart


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    extra: Any = None
    is_started: bool = False


class ChatCalls:
    """The tool calls of one response."""

    def __init__(self, provider_id: str, extra_key: str) -> None:
        """`extra_key` names the field of a call that must be sent back with it."""
        self._provider_id = provider_id
        self._extra_key = extra_key
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def __bool__(self) -> bool:
        return any(call.name for call in self._calls)

    def add(self, delta: dict[str, Any]) -> list[ModelEvent]:
        """Take one delta. Return the start of its call when id and name are known with it."""
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        call_id, name = _text(delta.get("id")), _text(function.get("name"))
        call = self._call_of(delta.get("index"), call_id, name)
        call.id = call.id or call_id
        call.name = call.name or name
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            call.arguments.append(arguments)
        elif arguments is not None:
            call.arguments = [msgspec.json.encode(arguments).decode()]
        if delta.get(self._extra_key) is not None:
            call.extra = delta[self._extra_key]
        return self._start(call) if call.id and call.name and not call.is_started else []

    def end(self) -> list[ModelEvent]:
        """Return the starts that are missing, and the ends of all calls in order. A call without a name is left out."""
        events: list[ModelEvent] = []
        calls = [call for call in self._calls if call.name]
        for number, call in enumerate(calls):
            call.id = call.id or f"call_{number}"  # the agent makes it unique within the session
            if not call.is_started:
                events += self._start(call)
        ends = (ToolCallEnd(call.id, join_surrogates("".join(call.arguments))) for call in calls)
        return [*events, *ends]

    def _call_of(self, index: Any, call_id: str, name: str) -> _Call:
        call: _Call | None = None
        if isinstance(index, int) and not isinstance(index, bool):
            call = self._by_index.get(index)
            if call is None or (name and call.name and call_id and call.id and call_id != call.id):
                call = self._by_index[index] = self._new()
            return call
        newest = self._calls[-1] if self._calls else None
        if call_id:
            call = next((known for known in self._calls if known.id == call_id), None)
            if call is None and newest is not None and not newest.id and not (name and newest.name):
                call = newest  # the id is late
        elif newest is not None and not (name and newest.name):
            call = newest
        if call is None and newest is not None and not name and not call_id:
            call = newest
        return call or self._new()

    def _new(self) -> _Call:
        call = _Call()
        self._calls.append(call)
        return call

    def _start(self, call: _Call) -> list[ModelEvent]:
        call.is_started = True
        start = ToolCallStart(call.id, call.name)
        if call.extra is None:
            return [start]
        return [ThinkingEnd("", "", self._provider_id, {self._extra_key: call.extra}), start]


def _text(value: Any) -> str:
    return join_surrogates(value) if isinstance(value, str) else ""
