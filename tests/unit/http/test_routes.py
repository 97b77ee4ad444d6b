"""The table of routes: every path finds its route, every other path is refused."""

import pytest

from protocol.errors import BadInput, NotFound
from protocol.operations import OPERATIONS
from supervisor.http.routes import ROUTES, MethodUnknown, Route, RouteTable

TABLE = RouteTable()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_route_matches_its_own_path(route: Route) -> None:
    names = [word[1:-1] for word in route.path.split("/") if word.startswith("{")]
    path = route.path
    for name in names:
        path = path.replace(f"{{{name}}}", f"a-{name}")
    match = TABLE.match(route.method, path)
    assert match.route is route
    assert match.params == {name: f"a-{name}" for name in names}


def test_each_route_has_either_a_handler_or_a_known_operation() -> None:
    for route in ROUTES:
        assert bool(route.operation) != bool(route.handler), route
        assert not route.operation or route.operation in OPERATIONS, route


def test_each_operation_has_a_route_or_is_internal() -> None:
    internal = {operation.name for operation in OPERATIONS.values() if operation.is_inner}
    assert {route.operation for route in ROUTES if route.operation} == set(OPERATIONS) - internal


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v2/health", "/v1/health/", "//v1/health", "/v1//health", "/v1/workspaces/", "v1/health", "*", ""],
)
def test_an_unknown_path_is_refused(path: str) -> None:
    with pytest.raises(NotFound) as refused:
        TABLE.match("GET", path)
    assert refused.value.code == "route_unknown"


def test_an_unknown_method_is_refused_with_the_supported_ones() -> None:
    with pytest.raises(MethodUnknown) as refused:
        TABLE.match("PATCH", "/v1/workspaces/a/sessions/b")
    assert refused.value.allowed == ["DELETE", "GET", "PUT"]
    assert refused.value.status == 405


@pytest.mark.parametrize("word", ["%2e%2e", "..%2f..", "a%2Fb", "%00"])
def test_C12_an_encoded_segment_stays_one_segment(word: str) -> None:
    match = TABLE.match("GET", f"/v1/workspaces/{word}/sessions")
    assert match.route.operation == "session.list"
    assert list(match.params) == ["id"]


def test_C12_a_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(BadInput):
        TABLE.match("GET", "/v1/workspaces/%ff/sessions")


def test_ids_of_child_sessions_are_accepted() -> None:
    match = TABLE.match("GET", "/v1/workspaces/w/sessions/m1$$t1/messages")
    assert match.params == {"id": "w", "sid": "m1$$t1"}
