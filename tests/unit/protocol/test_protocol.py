"""Parts of the protocol: ids, errors, events, limits, operations, worker specifications, state machines."""

import random
from enum import Enum

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.api.agent import Prompt, RunComplete
from protocol.api.envelope import StreamReset
from protocol.api.mcp import McpEvent
from protocol.api.session import Session
from protocol.api.workspace import EMPTY_CONFIG, Workspace
from protocol.base.machine import STORY_LENGTH, InvalidTransition, Machine
from protocol.errors import CODES, BulkheadError, Internal, NotFound, Unavailable, from_info
from protocol.events import EventId, event_data, numbered_event, parse_event_id, snapshot_event
from protocol.ids import Generation, WorkspaceId, is_id, is_uuid, link_identity, new_token, new_uuid
from protocol.limits import DEFAULT_LIMITS, limits_from_json
from protocol.operations import OPERATIONS
from protocol.worker_spec import WorkerSpec, spec_from_bytes, spec_to_bytes

# --- ids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a", "0", "_x", "a-b.c:d", "m1$$call_2", "x" * 200])
def test_well_formed_ids_are_accepted(text: str) -> None:
    assert is_id(text)


@pytest.mark.parametrize(
    "text", ["", "..", ".a", "-a", "a/b", "a b", "a\n", "a\0", "é", "x" * 201, "../../etc/passwd", "%2e%2e"]
)
def test_C12_other_texts_are_not_accepted_as_ids(text: str) -> None:
    assert not is_id(text)


def test_new_uuids_are_valid_and_determined_by_the_random_source() -> None:
    assert new_uuid(random.Random(1)) == new_uuid(random.Random(1))
    text = new_uuid(random.Random(2))
    assert is_uuid(text)
    assert is_id(text)
    assert text[14] == "4"
    assert text[19] in "89ab"


@pytest.mark.parametrize("wrap", ["{}", "urn:uuid:{}", "{{{}}}"])
def test_each_notation_of_a_uuid_is_accepted(wrap: str) -> None:
    text = new_uuid(random.Random(3))
    assert is_uuid(wrap.format(text))
    assert is_uuid(text.replace("-", ""))
    assert not is_uuid(wrap.format(text)[:-2])


def test_a_link_identity_depends_on_the_token_and_does_not_contain_it() -> None:
    token = new_token(random.Random(4))
    assert len(token) == 64
    identity = link_identity(WorkspaceId("w"), Generation(3), token)
    assert identity.startswith(b"w.3.")
    assert token.encode() not in identity
    assert identity != link_identity(WorkspaceId("w"), Generation(3), "other")
    assert len(link_identity(WorkspaceId("w" * 200), Generation(10**6), token)) <= 255


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_error_is_decoded_as_its_own_class(code: str) -> None:
    cls, status = CODES[code]
    error = cls("cannot: reason", code=code, retry_after_s=2.0, details={"id": "x"})
    assert error.status == status
    again = from_info(msgspec.msgpack.decode(msgspec.msgpack.encode(error.info()), type=type(error.info())))
    assert type(again) is cls
    assert again.info() == error.info()
    assert str(again) == "cannot: reason"


def test_an_error_of_a_newer_version_is_internal_but_keeps_its_code() -> None:
    info = msgspec.structs.replace(NotFound("cannot find it").info(), code="brand_new", status=418)
    again = from_info(info)
    assert isinstance(again, Internal)
    assert (again.code, again.status) == ("brand_new", 418)


def test_errors_say_whether_a_retry_is_safe() -> None:
    assert Unavailable("cannot now").retryable
    assert not Unavailable("cannot now", retryable=False).retryable
    assert not BulkheadError("cannot").retryable


# --- events ---------------------------------------------------------------------------------------------------------


@given(st.from_regex(r"[A-Za-z0-9]{1,64}", fullmatch=True), st.integers(0, 10**18 - 1))
def test_an_event_id_is_parsed_as_it_was_printed(log_id: str, number: int) -> None:
    event_id = EventId(log_id, number)
    assert parse_event_id(str(event_id)) == event_id


@pytest.mark.parametrize(
    "text", ["", "5", "a", "a.", ".5", "a.-1", "a.5 ", "a.5\n", "a.b", "a.5.6", "ä.5", "a." + "9" * 19, "a\0.5"]
)
def test_C04_other_texts_are_not_event_ids(text: str) -> None:
    assert parse_event_id(text) is None


@given(st.text())
def test_C04_any_text_is_parsed_without_an_error(text: str) -> None:
    parse_event_id(text)


async def test_the_payload_decides_the_kind_and_a_single_possible_change_may_be_omitted() -> None:
    payload = RunComplete(session_id="s", message_id="m")
    event = numbered_event(payload, number=7, key="r", session_id="s", run_id="r")
    assert (event.kind, event.number, event.key, event.session_id, event.run_id) == ("run_complete", 7, "r", "s", "r")
    assert event.data == event_data(payload, "updated")
    assert not event.is_snapshot


async def test_a_snapshot_has_no_number() -> None:
    event = snapshot_event(McpEvent(type="state_changed", name="m", state="connected"), key="mcp m")
    assert event.is_snapshot
    assert (event.kind, event.number, event.key) == ("mcp_event", 0, "mcp m")


async def test_a_payload_that_does_not_match_the_event_is_refused() -> None:
    session = Session(id="s", created_at=1, updated_at=1)
    with pytest.raises(ValueError, match="no row of EVENTS"):
        event_data(Prompt(session_id="s", prompt="p"))
    with pytest.raises(ValueError, match="use one of created, deleted, updated"):
        event_data(session)
    with pytest.raises(ValueError, match="change 'deleted': use one of updated"):
        event_data(RunComplete(session_id="s", message_id="m"), "deleted")
    with pytest.raises(ValueError, match="cannot send a snapshot of kind session"):
        snapshot_event(session, "updated", key="s")
    with pytest.raises(ValueError, match="cannot number an event of kind mcp_event"):
        numbered_event(McpEvent(type="state_changed", name="m", state="connected"), number=1)
    with pytest.raises(ValueError, match="cannot number an event of kind reset"):
        numbered_event(StreamReset(reason="r", cursor=""), number=1)


# --- limits, operations, spec, types ---------------------------------------------------------------------------------


def test_limits_are_read_from_json_and_errors_name_the_limit() -> None:
    assert limits_from_json('{"drain_s": 1}') == msgspec.structs.replace(DEFAULT_LIMITS, drain_s=1.0)
    with pytest.raises(msgspec.ValidationError, match="drain_s"):
        limits_from_json('{"drain_s": "soon"}')


def test_the_default_limits_are_consistent() -> None:
    limits = DEFAULT_LIMITS
    assert limits.message_max_bytes > limits.body_max_bytes
    assert limits.event_batch_max <= limits.event_window
    assert limits.heartbeat_interval_s * 4 <= limits.heartbeat_lost_s
    assert all(getattr(limits, name) >= 0 for name in limits.__struct_fields__)


def test_the_keys_of_the_operations_are_their_names() -> None:
    assert all(name == row.name for name, row in OPERATIONS.items())


def test_a_worker_spec_is_decoded_as_it_was_encoded() -> None:
    spec = WorkerSpec(
        workspace_id=WorkspaceId("w"),
        generation=Generation(1),
        path="/p",
        data_dir="/d",
        endpoint="ipc:///s",
        token="t",
        log_path="/l",
        env={"A": "ü"},
        limits=msgspec.structs.replace(DEFAULT_LIMITS, drain_s=0.1),
    )
    assert spec_from_bytes(spec_to_bytes(spec)) == spec


def test_an_envelope_is_one_line_with_the_type_first() -> None:
    text = event_data(RunComplete(session_id="s", message_id="m", text="a\nb\u2028c"))
    assert b"\n" not in text
    assert text.startswith(b'{"type":"run_complete","payload":{"type":"updated","payload":{')
    read = msgspec.json.decode(text)
    assert read["payload"]["payload"] == {"session_id": "s", "message_id": "m", "text": "a\nb\u2028c"}


@given(st.text(), st.text())
def test_any_text_survives_encoding(session_id: str, prompt: str) -> None:
    request = Prompt(session_id=session_id, prompt=prompt)
    try:
        data = msgspec.json.encode(request)
    except UnicodeEncodeError:
        return  # a lone surrogate cannot come from JSON that was read
    assert msgspec.json.decode(data, type=Prompt) == request


def test_a_workspace_always_has_the_keys_of_the_configuration_that_clients_need() -> None:
    read = msgspec.json.decode(msgspec.json.encode(Workspace(id="w", path="/p")))
    assert read["config"] == msgspec.json.decode(bytes(EMPTY_CONFIG)) == {"providers": {}, "options": {"tui": {}}}


# --- machine --------------------------------------------------------------------------------------------------------


class Light(Enum):
    RED = 1
    GREEN = 2


class Lamp(Machine[Light]):
    table = {Light.RED: {"go": (Light.GREEN,)}, Light.GREEN: {"stop": (Light.RED,)}}

    def go(self) -> list[str]:
        return self._move("go", Light.GREEN, ["drive"])

    def stop(self) -> list[str]:
        return self._move("stop", Light.RED)


def test_a_machine_moves_by_its_table_and_returns_effects() -> None:
    lamp = Lamp(Light.RED)
    assert lamp.go() == ["drive"]
    assert lamp.state is Light.GREEN
    assert lamp.stop() == []


def test_a_forbidden_transition_reports_the_history_of_the_machine() -> None:
    lamp = Lamp(Light.RED)
    for _ in range(STORY_LENGTH):
        lamp.go()
        lamp.stop()
    with pytest.raises(InvalidTransition, match=r"'stop' may not lead from RED to RED.*RED go GREEN"):
        lamp.stop()
    assert lamp.state is Light.RED
    assert len(lamp.story) == STORY_LENGTH
