"""The strict decoder: a valid sample of each type passes, and each planted mistake is found."""

import copy
import json
import re
from typing import Any

import msgspec
import pytest

from protocol.events import EVENTS
from supervisor.http.routes import ROUTES
from tests.support.checks import api_samples as samples
from tests.support.checks import api_shapes, responses
from tests.support.checks.shape_checks import ShapeError, date_time, padded_base64

MISSING = object()
"""Instead of a bad value: the key is removed."""


def changed(sample: Any, path: str, value: object) -> Any:
    """Return a copy of `sample` with `value` at `path`, whose keys are joined by `/`; `+x` adds the key x."""
    result = copy.deepcopy(sample)
    *parents, last = path.split("/")
    container = result
    for name in parents:
        container = container[int(name)] if isinstance(container, list) else container[name]
    key: Any = int(last) if isinstance(container, list) else last.removeprefix("+")
    assert isinstance(container, list) or last.startswith("+") or key in container, f"the sample has no {path}"
    if value is MISSING:
        del container[key]
    else:
        container[key] = value
    return result


@pytest.mark.parametrize("name", samples.GOOD)
def test_a_valid_sample_passes(name: str) -> None:
    check, sample = samples.GOOD[name]
    check(sample, name)


@pytest.mark.parametrize(("name", "path", "value"), samples.BAD, ids=lambda word: str(word)[:40])
def test_a_planted_mistake_is_found(name: str, path: str, value: object) -> None:
    check, sample = samples.GOOD[name]
    with pytest.raises(ShapeError, match=re.escape(name)):
        check(changed(sample, path, value), name)


@pytest.mark.parametrize(("name", "path"), samples.REQUIRED, ids=str)
def test_a_missing_required_key_is_found(name: str, path: str) -> None:
    check, sample = samples.GOOD[name]
    with pytest.raises(ShapeError, match="is missing"):
        check(changed(sample, path, MISSING), name)


@pytest.mark.parametrize("name", samples.GOOD)
def test_a_value_of_another_type_is_found(name: str) -> None:
    """Each value in turn is replaced by one of another type: a float for an integer, a list for all others."""
    check, sample = samples.GOOD[name]
    checked = 0
    for path, value in nested_values(sample):
        if path.rpartition("/")[0] in samples.FREE or path in samples.FREE:
            continue
        bad: object = ["x"] if not isinstance(value, list) else {"x": "y"}
        with pytest.raises(ShapeError):
            check(changed(sample, path, bad), name)
        checked += 1
        if type(value) is int and path.rpartition("/")[2] not in samples.FLOATS:
            with pytest.raises(ShapeError):
                check(changed(sample, path, float(value)), name)
    assert checked > 0


def nested_values(value: Any, parent: str = "") -> list[tuple[str, Any]]:
    """Return path and value of all nested values, also of containers."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    values = []
    for key, item in items:
        path = f"{parent}/{key}" if parent else str(key)
        values += [(path, item), *nested_values(item, path)]
    return values


# --- scalars ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "YQ==", "YWI=", "YWJj", "+/+/"])
def test_padded_base64_of_the_standard_alphabet_passes(text: str) -> None:
    padded_base64(text, "x")


@pytest.mark.parametrize("text", ["YQ", "YQ=", "_-_-", "YQ==\n", "Y Q==", "YQ==YQ==", "é", None, 1, b"YQ=="])
def test_other_base64_is_refused(text: object) -> None:
    with pytest.raises(ShapeError):
        padded_base64(text, "x")


@pytest.mark.parametrize(
    "text", ["2026-08-01T10:00:00Z", "2026-08-01T10:00:00.123456789Z", "2026-08-01T10:00:00.5+02:00"]
)
def test_a_date_with_a_zone_passes(text: str) -> None:
    date_time(text, "x")
    date_time("0001-01-01T00:00:00Z", "x")


@pytest.mark.parametrize(
    "text",
    [
        *("", "2026-08-01T10:00:00", "2026-08-01", "2026-08-01 10:00:00Z", "2026-13-01T10:00:00Z", "2026-08-01T10:00Z"),
        *("2026-08-01T10:00:00+2", "2026-08-01T10:00:00z", "20260801T100000Z", "2026-08-01T25:00:00Z", None, 0),
    ],
)
def test_other_dates_are_refused(text: object) -> None:
    with pytest.raises(ShapeError):
        date_time(text, "x")


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"a":1,"a":2}', b"NaN", b'{"a":Infinity}', b"{}{}", b'"\xff"', '{"a":1}'.encode("utf-16")]
)
def test_text_that_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ShapeError):
        api_shapes.parse(text)


# --- events -------------------------------------------------------------------------------------------------------


def line_of(kind: str, change: str, payload: object) -> bytes:
    return json.dumps({"type": kind, "payload": {"type": change, "payload": payload}}).encode()


@pytest.mark.parametrize("kind", samples.EVENTS)
def test_each_event_passes_only_with_its_own_inner_types(kind: str) -> None:
    sample, (allowed, _) = samples.EVENTS[kind], api_shapes.PAYLOADS[kind]
    for change in ("created", "updated", "deleted", "finished", ""):
        if change in allowed:
            assert api_shapes.event(line_of(kind, change, sample))["type"] == kind
        else:
            with pytest.raises(ShapeError):
                api_shapes.event(line_of(kind, change, sample))
    other_payloads: tuple[object, ...] = (None, [], "x", {})
    for payload in other_payloads:
        with pytest.raises(ShapeError):
            api_shapes.event(line_of(kind, allowed[0], payload))


async def test_each_kind_of_event_has_a_type_and_a_sample() -> None:
    assert set(samples.EVENTS) == set(api_shapes.PAYLOADS) == set(EVENTS)


@pytest.mark.parametrize("kind", EVENTS)
async def test_an_event_has_only_the_inner_types_that_the_client_expects(kind: str) -> None:
    assert set(EVENTS[kind].changes) <= set(api_shapes.PAYLOADS[kind][0])


@pytest.mark.parametrize("kind", [row.name for row in EVENTS.values() if row.payload is not None])
async def test_the_sample_of_an_event_is_a_payload_of_its_type(kind: str) -> None:
    payload = EVENTS[kind].payload
    assert payload is not None
    msgspec.json.decode(json.dumps(samples.EVENTS[kind]), type=payload)


@pytest.mark.parametrize("changed_payload", [{"state": 5}, {"state": MISSING}, {"pid": "1"}, {"colour": "red"}])
async def test_an_event_of_bulkhead_has_exactly_the_fields_of_its_type(changed_payload: dict[str, object]) -> None:
    payload = {k: v for k, v in (samples.EVENTS["workspace_state"] | changed_payload).items() if v is not MISSING}
    with pytest.raises(ShapeError, match="event workspace_state"):
        api_shapes.event(line_of("workspace_state", "updated", payload))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b'{"payload":{"type":"updated","payload":{"workspace_id":"w"}},"type":"config_changed"}',
        b'{"type":"config_changed","payload":{"payload":{"workspace_id":"w"},"type":"updated"}}',
        b'{"type":"config_changed","payload":{"workspace_id":"w"}}',
        b'{"type":"config_changed","payload":null}',
        b'{"type":"config_changed"}',
        b'{"type":"config_changed","payload":{"type":"updated"}}',
        b'{"type":"config_changed","payload":{"type":"updated","payload":null}}',
        b'{"type":"configChanged","payload":{"type":"updated","payload":{"workspace_id":"w"}}}',
        b'{"type":"question_request","payload":{"type":"created","payload":{}}}',
        b'{"Type":"config_changed","payload":{"type":"updated","payload":{"workspace_id":"w"}}}',
        b'{"type":"config_changed","payload":{"type":"updated","payload":{"workspace_id":"w"}},"id":NaN}',
    ],
)
def test_an_invalid_envelope_is_refused(line: bytes) -> None:
    with pytest.raises(ShapeError):
        api_shapes.event(line)


@pytest.mark.parametrize(("key", "value"), [("is_busy", True), ("attached_clients", 1)])
def test_a_session_event_has_no_computed_field(key: str, value: object) -> None:
    session = samples.SESSION | {key: value}
    api_shapes.SESSION(session, "session")
    with pytest.raises(ShapeError, match="computed"):
        api_shapes.event(line_of("session", "updated", session))


# --- responses ------------------------------------------------------------------------------------------------------

JSON = {"content-type": "application/json"}
ERROR = b'{"message":"cannot do it: no","code":"not_found"}'
W = "/v1/workspaces/w"


def test_each_route_has_a_response_type_and_no_other_path_has() -> None:
    routes = {(route.method, re.sub(r"\{[^}]*\}", "{}", route.path)) for route in ROUTES}
    without_type = {*(("GET", path) for path in responses.NOT_JSON), ("GET", "/v1/workspaces/{}/events")}
    assert responses.known_routes() == routes - without_type
    assert len(responses.known_routes() | without_type) >= 70


@pytest.mark.parametrize(
    ("method", "target", "status", "headers", "body"),
    [
        ("GET", "/v1/health", 200, {"content-length": "0"}, b""),
        ("POST", f"{W}/agent", 202, JSON, b'{"run_id":"r"}'),
        ("GET", f"{W}/agent/sessions/m$$c/prompts/queued", 200, JSON, b"0"),
        ("GET", f"{W}/filetracker/lastread?path=x", 200, JSON, b'"0001-01-01T00:00:00Z"'),
        ("GET", f"{W}/mcp/states", 200, JSON, b'{"a":{"name":"a","state":"needs auth"}}'),
        ("GET", f"{W}/sessions/s/messages/user", 200, JSON, b"[]"),
        ("GET", f"{W}/nothing", 404, JSON, ERROR),
        ("GET", "/v1/control", 405, JSON | {"allow": "POST"}, ERROR),
        ("POST", "/v1/workspaces", 503, JSON | {"retry-after": "1"}, ERROR),
    ],
)
def test_a_valid_response_passes(method: str, target: str, status: int, headers: dict[str, str], body: bytes) -> None:
    responses.check(method, target, status, headers, body)


@pytest.mark.parametrize(
    ("method", "target", "status", "headers", "body"),
    [
        ("POST", f"{W}/agent", 200, JSON, b'{"run_id":"r"}'),
        ("POST", f"{W}/agent", 202, JSON, b'{"run_id":""}'),
        ("POST", f"{W}/sessions", 201, JSON, json.dumps(samples.SESSION).encode()),
        ("DELETE", f"{W}/sessions/s", 204, {}, b""),
        ("DELETE", f"{W}/sessions/s", 200, JSON, b"{}"),
        ("POST", f"{W}/agent/init", 202, {}, b""),
        ("GET", "/v1/control", 405, JSON, ERROR),
        ("POST", "/v1/workspaces", 503, JSON, ERROR),
        ("POST", "/v1/workspaces", 503, JSON | {"retry-after": "soon"}, ERROR),
        ("GET", W, 404, JSON, b'{"error":"no","code":"not_found"}'),
        ("GET", W, 404, JSON, b'{"message":"","code":"not_found"}'),
        ("GET", W, 404, JSON, b'{"message":"no"}'),
        ("GET", W, 404, {"content-type": "text/plain"}, ERROR),
        ("GET", W, 404, JSON, b"no"),
        ("GET", W, 404, JSON, b""),
        ("GET", W, 418, JSON, ERROR),
        ("GET", W, 302, {}, b""),
        ("GET", "/v1/unknown", 200, JSON, b"{}"),
        ("GET", "/v1/health", 200, JSON | {"content-length": "3"}, b"{}"),
        ("GET", f"{W}/sessions", 200, JSON, b"null"),
        ("GET", f"{W}/sessions", 200, JSON, b"[null]"),
        ("GET", f"{W}/sessions", 200, {}, b"[]"),
        ("GET", f"{W}/sessions", 200, JSON | {"content-encoding": "gzip"}, b"[]"),
        ("GET", f"{W}/sessions", 200, JSON | {"access-control-allow-origin": "*"}, b"[]"),
        ("GET", f"{W}/agent/sessions/s/prompts/queued", 200, JSON, b"0.0"),
        ("GET", f"{W}/agent/sessions/s/prompts/queued", 200, JSON, b'{"queued":0}'),
        ("GET", f"{W}/filetracker/lastread", 200, JSON, b'""'),
        ("GET", f"{W}/filetracker/lastread", 200, JSON, b'{"time":"0001-01-01T00:00:00Z"}'),
        ("GET", f"{W}/lsps", 200, JSON, b'{"a":null}'),
        ("GET", f"{W}/mcp/states", 200, JSON, b"[]"),
        ("GET", f"{W}/permissions/skip", 200, JSON, b'{"skip":0}'),
        ("POST", f"{W}/config/import-copilot", 200, JSON, b'{"success":false}'),
        ("POST", f"{W}/skills/read", 200, JSON, b'{"content":"YQ","result":{}}'),
        ("POST", f"{W}/mcp/read-resource", 200, JSON, b'[{"uri":"u","blob":"_-"}]'),
    ],
)
def test_a_wrong_response_is_refused(
    method: str, target: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    with pytest.raises(ShapeError):
        responses.check(method, target, status, headers, body)


@pytest.mark.parametrize(
    "change",
    [
        {"content-type": "application/json"},
        {"content-type": ""},
        {"cache-control": "max-age=1"},
        {"cache-control": ""},
        {"content-length": "0"},
        {"content-encoding": "gzip"},
    ],
)
def test_a_stream_with_other_headers_is_refused(change: dict[str, str]) -> None:
    good = {"content-type": "text/event-stream", "cache-control": "no-cache", "connection": "close"}
    responses.check_stream(good)
    with pytest.raises(ShapeError):
        responses.check_stream(good | change)
