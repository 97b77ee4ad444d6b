"""Check that the history checks and the strict decoder find planted violations of each kind."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checks import api_shapes
from tests.support.checks.history import ClientLog, EventRow, RunRow, Seen, Stored, Stream
from tests.support.checks.history_checks import check_history
from tests.support.checks.model_requests import InvalidRequest, check_anthropic, check_openai

TEXT = {"type": "text", "data": {"text": "hi"}}


def finish(reason: str) -> dict[str, object]:
    return {"type": "finish", "data": {"reason": reason, "time": 1}}


def valid_history() -> tuple[ClientLog, Stored]:
    """Return a valid history: one prompt is sent, accepted, completed, and its events are received."""
    client_log = ClientLog(workspaces={"W": Path("/w")})
    client_log.submitted("W", "S", "r1")
    client_log.accepted("W", "S", "r1")
    events = [EventRow(1, "message", "r1", b"m1"), EventRow(2, "run_complete", "r1", b"end")]
    messages = {"a1": ("assistant", json.dumps([TEXT, finish("end_turn")]))}
    stored = Stored(
        workspace="W",
        log="L",
        runs=[RunRow("r1", "S", "ended", "completed", message_id="a1")],
        events=events,
        messages=messages,
    )
    stream = Stream("client", "W")
    stream.seen = [
        Seen("message", "created", {}, "L", 1, b"m1"),
        Seen("message", "updated", {}),
        Seen("run_complete", "updated", {"run_id": "r1"}, "L", 2, b"end"),
    ]
    client_log.streams.append(stream)
    return client_log, stored


def with_run(stored: Stored, **changes: str) -> None:
    stored.runs[0] = dataclasses.replace(stored.runs[0], **changes)


def test_a_valid_history_has_no_findings() -> None:
    client_log, stored = valid_history()
    assert check_history(client_log, [stored]) == []


def lost_prompt(client_log: ClientLog, stored: Stored) -> None:
    client_log.submitted("W", "S", "r2")
    client_log.accepted("W", "S", "r2")


def second_terminal(client_log: ClientLog, stored: Stored) -> None:
    stored.events.append(EventRow(3, "run_complete", "r1"))


def no_terminal(client_log: ClientLog, stored: Stored) -> None:
    del stored.events[1]
    del client_log.streams[0].seen[2]


def terminal_of_an_open_run(client_log: ClientLog, stored: Stored) -> None:
    with_run(stored, state="active", outcome="")


def terminal_of_an_unknown_run(client_log: ClientLog, stored: Stored) -> None:
    stored.events.append(EventRow(3, "run_complete", "r9"))


def ended_without_outcome(client_log: ClientLog, stored: Stored) -> None:
    with_run(stored, outcome="")


def run_stored_twice(client_log: ClientLog, stored: Stored) -> None:
    stored.runs.append(stored.runs[0])


def run_without_a_prompt(client_log: ClientLog, stored: Stored) -> None:
    stored.runs.append(RunRow("r7", "S", "queued", ""))


def event_after_the_end(client_log: ClientLog, stored: Stored) -> None:
    stored.events.append(EventRow(3, "message", "r1"))


def gap_in_the_log(client_log: ClientLog, stored: Stored) -> None:
    stored.events.append(EventRow(4, "session", ""))


def corrupt_database(client_log: ClientLog, stored: Stored) -> None:
    stored.check = "row 1 missing from index"


def final_message_missing(client_log: ClientLog, stored: Stored) -> None:
    with_run(stored, message_id="missing")


def final_message_without_a_finish(client_log: ClientLog, stored: Stored) -> None:
    stored.messages["a1"] = ("assistant", json.dumps([TEXT]))


def final_message_with_another_outcome(client_log: ClientLog, stored: Stored) -> None:
    with_run(stored, outcome="cancelled")


def completed_without_a_message(client_log: ClientLog, stored: Stored) -> None:
    with_run(stored, message_id="")


def open_tool_call(client_log: ClientLog, stored: Stored) -> None:
    call = {"type": "tool_call", "data": {"id": "c1", "name": "bash", "input": "{}"}}
    stored.messages["a0"] = ("assistant", json.dumps([call, finish("tool_use")]))


def answered_twice(client_log: ClientLog, stored: Stored) -> None:
    open_tool_call(client_log, stored)
    result = {"type": "tool_result", "data": {"tool_call_id": "c1"}}
    stored.messages["t1"] = stored.messages["t2"] = ("tool", json.dumps([result]))


def client_misses_one(client_log: ClientLog, stored: Stored) -> None:
    stored.events.insert(1, EventRow(2, "session", "", b"s"))
    stored.events[2] = EventRow(3, "run_complete", "r1", b"end")
    client_log.streams[0].seen[2] = Seen("run_complete", "updated", {"run_id": "r1"}, "L", 3, b"end")


def client_sees_one_twice(client_log: ClientLog, stored: Stored) -> None:
    client_log.streams[0].seen.insert(1, client_log.streams[0].seen[0])


def client_sees_another_order(client_log: ClientLog, stored: Stored) -> None:
    seen = client_log.streams[0].seen
    seen[0], seen[2] = seen[2], seen[0]


def client_sees_two_ends(client_log: ClientLog, stored: Stored) -> None:
    client_log.streams[0].seen.append(Seen("run_complete", "updated", {"run_id": "r1"}, "L", 3, b"end"))
    stored.events.append(EventRow(3, "session", "", b"end"))


def client_saw_what_is_not_stored(client_log: ClientLog, stored: Stored) -> None:
    client_log.streams[0].seen.append(Seen("session", "updated", {}, "L", 3, b"s"))


def client_saw_other_data(client_log: ClientLog, stored: Stored) -> None:
    client_log.streams[0].seen[0] = Seen("message", "created", {}, "L", 1, b"other")


def client_skips_events(client_log: ClientLog, stored: Stored) -> None:
    client_log.streams[0].seen.append(Seen("base", "", {}, "L", 3))


def log_changed_without_a_reset(client_log: ClientLog, stored: Stored) -> None:
    client_log.streams[0].seen.append(Seen("session", "updated", {}, "M", 3, b"s"))


Violation = Callable[[ClientLog, Stored], None]

VIOLATIONS: dict[Violation, str] = {
    lost_prompt: "acknowledged and is not stored",
    second_terminal: "has not 1 terminal",
    no_terminal: "has not 1 terminal",
    terminal_of_an_open_run: "has not 0 terminal",
    terminal_of_an_unknown_run: "unknown run r9",
    ended_without_outcome: "with outcome ''",
    run_stored_twice: "stored 2 times",
    run_without_a_prompt: "was not requested",
    event_after_the_end: "after the end of r1",
    gap_in_the_log: "have gaps",
    corrupt_database: "quick_check",
    final_message_missing: "ends in message missing",
    final_message_without_a_finish: "ends in message a1",
    final_message_with_another_outcome: "its message says end_turn",
    completed_without_a_message: "names no message",
    open_tool_call: "c1 has no result",
    answered_twice: "c1 has 2 results",
    client_misses_one: "L.3 (run_complete) follows L.1",
    client_sees_one_twice: "L.1 (message) follows L.1",
    client_sees_another_order: "L.1 (message) follows L.2",
    client_sees_two_ends: "saw 2 ends",
    client_saw_what_is_not_stored: "which the file does not hold",
    client_saw_other_data: "differs from the file",
    client_skips_events: "base L.3 comes after L.2",
    log_changed_without_a_reset: "M.3 (session) follows L.2",
}


@pytest.mark.parametrize("plant", VIOLATIONS, ids=lambda plant: plant.__name__)
def test_a_planted_violation_is_found(plant: Violation) -> None:
    client_log, stored = valid_history()
    plant(client_log, stored)
    findings = check_history(client_log, [stored])
    assert any(VIOLATIONS[plant] in finding for finding in findings), findings


def test_a_stream_may_continue_anywhere_after_a_reset() -> None:
    client_log, stored = valid_history()
    cursor = {"reason": "too old", "cursor": "L.7"}
    client_log.streams[0].seen = [
        Seen("message", "created", {}, "L", 1, b"m1"),
        Seen("reset", "updated", cursor, "L", 7),
    ]
    assert check_history(client_log, [stored]) == []


def test_a_resumed_stream_must_begin_after_its_cursor() -> None:
    client_log, stored = valid_history()
    client_log.streams[0].after = 1
    assert any("L.1 (message) follows L.1" in finding for finding in check_history(client_log, [stored]))
    del client_log.streams[0].seen[0]
    assert check_history(client_log, [stored]) == []


# --- the strict decoder -------------------------------------------------------------------------------------------

MESSAGE = {
    "id": "m",
    "session_id": "s",
    "role": "user",
    "parts": [TEXT, finish("stop")],
    "model": "",
    "provider": "",
    "created_at": 1,
    "updated_at": 2,
}


def line(payload: object, kind: str = "message", change: str = "created") -> bytes:
    return json.dumps({"type": kind, "payload": {"type": change, "payload": payload}}).encode()


def test_a_valid_event_is_decoded() -> None:
    assert api_shapes.event(line(MESSAGE))["payload"]["payload"]["id"] == "m"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"created_at": 1.0}, "integer literal"),
        ({"parts": None}, "a list"),
        ({"parts": [{"type": "text", "text": "flat"}]}, "'data' is missing"),
        ({"parts": [{"type": "video", "data": {}}]}, "one of"),
        ({"parts": [TEXT, TEXT]}, "at most one text"),
        ({"parts": [{"type": "binary", "data": {"Path": "p", "MIMEType": "m", "Data": "YQ"}}]}, "Base64"),
        ({"parts": [{"type": "tool_call", "data": {"id": "c", "name": "n", "input": {}}}]}, "a string"),
        ({"role": "robot"}, "one of"),
        ({"Updated_At": 1}, "would be read as 'updated_at'"),
    ],
)
def test_a_message_that_the_client_cannot_decode_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(api_shapes.ShapeError, match=reason):
        api_shapes.event(line(MESSAGE | changes))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (line({key: value for key, value in MESSAGE.items() if key != "parts"}), "'parts' is missing"),
        (line(None), "an object"),
        (line(MESSAGE, kind="unknown"), "not an outer type"),
        (line(MESSAGE, change="changed"), "inner type"),
        (line({"session_id": "s", "message_id": ""}, "run_complete", "created"), "inner type"),
        (line({"type": "error", "message": None}, "agent_event"), "an object"),
        (b'{"payload": {"type": "created", "payload": {}}, "type": "message"}', "must come first"),
        (line(MESSAGE).replace(b'"created_at": 1', b'"created_at": NaN'), "NaN"),
        (line(MESSAGE).replace(b'"created_at": 1', b'"created_at": 1, "created_at": 2'), "duplicate key"),
    ],
)
def test_an_event_that_the_client_would_drop_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(api_shapes.ShapeError, match=reason):
        api_shapes.event(data)


@pytest.mark.parametrize("path", ["config", "config.providers", "config.options", "config.options.tui"])
def test_a_workspace_that_would_crash_the_client_is_refused(path: str) -> None:
    workspace: dict[str, Any] = {
        "id": "w",
        "path": "/w",
        "data_dir": "/w/.bulkhead",
        "version": "1",
        "env": [],
        "config": {"providers": {}, "options": {"tui": {}}},
    }
    api_shapes.WORKSPACE(workspace, "workspace")
    *parents, last = path.split(".")
    container = workspace
    for name in parents:
        container = container[name]
    container[last] = None
    with pytest.raises(api_shapes.ShapeError):
        api_shapes.WORKSPACE(workspace, "workspace")


# --- requests to providers -------------------------------------------------------------------------------------

CALL = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
PROMPT = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [PROMPT, {"role": "assistant", "content": "done"}],
        [PROMPT, {"role": "assistant", "tool_calls": [CALL]}, PROMPT],
        [PROMPT, {"role": "assistant", "tool_calls": [CALL]}],
        [PROMPT, {"role": "tool", "tool_call_id": "c1", "content": "x"}],
        [PROMPT, {"role": "system", "content": "late"}, PROMPT],
        [PROMPT, {"role": "assistant", "content": ""}, PROMPT],
        [{"role": "user", "content": ""}],
    ],
)
def test_a_request_that_no_provider_accepts_is_found(messages: list[dict[str, object]]) -> None:
    with pytest.raises(InvalidRequest):
        check_openai({"stream": True, "messages": messages})


def test_a_request_with_an_answered_call_passes() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "x"}
    check_openai({"stream": True, "messages": [PROMPT, {"role": "assistant", "tool_calls": [CALL]}, result]})


def test_anthropic_requires_the_result_in_the_next_message() -> None:
    use = {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "ls", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "x"}]}
    prompt = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    check_anthropic({"stream": True, "messages": [prompt, use, result]})
    with pytest.raises(InvalidRequest):
        check_anthropic({"stream": True, "messages": [prompt, use, prompt]})
