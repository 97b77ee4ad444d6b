"""Check that the tables of routes, operations, errors, events and limits are complete and consistent."""

import inspect

import pytest

from protocol import errors
from protocol.errors import CODES, BulkheadError, from_info
from protocol.events import EVENTS, MARK_KIND, Delivery
from protocol.limits import DEFAULT_LIMITS
from protocol.operations import OPERATIONS
from supervisor.http.routes import ROUTES

INNER_OPERATIONS = {name for name, operation in OPERATIONS.items() if operation.is_inner}
"""Operations that only the supervisor calls; they have no route."""


async def test_every_route_has_either_an_operation_or_a_handler() -> None:
    for route in ROUTES:
        assert bool(route.operation) != bool(route.handler), route


async def test_every_operation_has_a_route_or_is_internal() -> None:
    routed = {route.operation for route in ROUTES if route.operation}
    assert routed <= set(OPERATIONS), "a route names an operation that does not exist"
    assert set(OPERATIONS) - routed == INNER_OPERATIONS, "an operation without a route"


@pytest.mark.parametrize("code", sorted(CODES))
async def test_an_error_survives_the_wire(code: str) -> None:
    cls, status = CODES[code]
    error = cls("cannot do it", code=code)
    assert error.status == status
    decoded = from_info(error.info())
    assert type(decoded) is cls
    assert (decoded.code, decoded.message, decoded.status, decoded.retryable) == (
        code,
        "cannot do it",
        status,
        error.retryable,
    )


async def test_every_class_of_error_has_a_code() -> None:
    classes = {
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, BulkheadError) and value is not BulkheadError
    }
    assert {cls for cls, _ in CODES.values()} == classes


async def test_each_payload_type_has_one_kind_of_event() -> None:
    payloads = [row.payload for row in EVENTS.values() if row.payload is not None]
    assert len(set(payloads)) == len(payloads), "the type of a payload must decide the kind"
    assert [row.name for row in EVENTS.values() if (row.payload is None) != (row.delivery is Delivery.NEVER)] == []


async def test_only_our_own_kinds_come_from_the_supervisor() -> None:
    assert [row.name for row in EVENTS.values() if row.is_own != (row.delivery is Delivery.SUPERVISOR)] == []
    assert MARK_KIND not in EVENTS, "a mark is not sent to clients"


async def test_the_rows_of_events_are_sorted() -> None:
    assert list(EVENTS) == sorted(EVENTS)
    assert all(row.changes and list(row.changes) == sorted(row.changes) for row in EVENTS.values())


async def test_limits_name_their_unit() -> None:
    units = ("_s", "_max", "_bytes", "_ms", "_kept", "_lines", "_threads")
    unclear = []
    for name in DEFAULT_LIMITS.__struct_fields__:
        base = name.removesuffix("_max")
        if not any(unit in f"{name}_" for unit in (f"{u}_" for u in units)) and not base.endswith(units):
            unclear.append(name)
    assert set(unclear) <= {"event_window", "restart_intensity", "run_max_s"}, unclear
    for name in DEFAULT_LIMITS.__struct_fields__:
        assert getattr(DEFAULT_LIMITS, name) >= 0, name
