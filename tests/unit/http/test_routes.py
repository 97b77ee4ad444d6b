"""The table of routes: every path finds its row, everything else a clear refusal."""

from typing import Any

import pytest

from protocol.errors import BadInput, NotFound
from protocol.operations import OPERATIONS
from supervisor.http.routes import ROUTES, MethodUnknown, RouteTable

TABLE = RouteTable()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_row_finds_itself(route: Any) -> None:  # type: ignore[no-untyped-def]
    names = [word[1:-1] for word in route.path.split("/") if word.startswith("{")]
    path = route.path
    for name in names:
        path = path.replace(f"{{{name}}}", f"a-{name}")
    match = TABLE.match(route.method, path)
    assert match.route is route
    assert match.params == {name: f"a-{name}" for name in names}


def test_every_row_has_exactly_one_answerer_that_exists() -> None:
    for route in ROUTES:
        assert bool(route.operation) != bool(route.handler), route
        assert not route.operation or route.operation in OPERATIONS, route


def test_every_operation_has_a_row_or_is_internal() -> None:
    internal = {operation.name for operation in OPERATIONS.values() if operation.is_inner}
    assert {route.operation for route in ROUTES if route.operation} == set(OPERATIONS) - internal


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v2/health", "/v1/health/", "//v1/health", "/v1//health", "/v1/workspaces/", "v1/health", "*", ""],
)
def test_unknown_path(path: str) -> None:
    with pytest.raises(NotFound) as refused:
        TABLE.match("GET", path)
    assert refused.value.code == "route_unknown"


def test_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(MethodUnknown) as refused:
        TABLE.match("PATCH", "/v1/workspaces/a/sessions/b")
    assert refused.value.allowed == ["DELETE", "GET", "PUT"]
    assert refused.value.status == 405


@pytest.mark.parametrize("word", ["%2e%2e", "..%2f..", "a%2Fb", "%00"])
def test_C12_encoded_words_stay_one_word(word: str) -> None:
    match = TABLE.match("GET", f"/v1/workspaces/{word}/sessions")
    assert match.route.operation == "session.list"
    assert list(match.params) == ["id"]


def test_C12_path_that_is_not_utf8() -> None:
    with pytest.raises(BadInput):
        TABLE.match("GET", "/v1/workspaces/%ff/sessions")


def test_child_session_ids_pass() -> None:
    match = TABLE.match("GET", "/v1/workspaces/w/sessions/m1$$t1/messages")
    assert match.params == {"id": "w", "sid": "m1$$t1"}
