"""Check that the OpenAPI document matches the code: routes, bodies as handlers read them, responses, errors."""

import ast
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.api.agent import Run
from protocol.api.lsp import Diagnostic, LspInfo
from protocol.api.mcp import McpInfo
from protocol.api.message import Message
from protocol.api.permission import PermissionRequest
from protocol.api.provider import SelectedModel
from protocol.api.session import Session, Todo
from protocol.api.workspace import WorkerStatus, Workspace
from protocol.events import EVENTS
from protocol.operations import OPERATIONS
from supervisor.http.openapi.document import TAGS, codes, document, operation_id
from supervisor.http.openapi.examples import EXAMPLES
from supervisor.http.openapi.schemas import takes
from supervisor.http.routes import ROUTES, Route
from tests.architecture.files import ROOT

DOCUMENT: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document()))
METHODS = {"get", "put", "post", "delete"}

EMPTY_RESPONSES = {"health", "control", "retire_client", "release_workspace", "set_current_session"} | {
    "restart_worker",
    "evict_worker",
    "remove_registration",
}
"""Handlers of the supervisor whose response is empty."""


def described(route: Route) -> dict[str, Any]:
    description: dict[str, Any] = DOCUMENT["paths"][route.path][route.method.lower()]
    return description


async def test_paths_and_methods_are_those_of_the_table() -> None:
    documented = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert documented == {(route.method, route.path) for route in ROUTES}
    names = [operation_id(route) for route in ROUTES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("route", ROUTES, ids=operation_id)
async def test_each_route_is_described_completely(route: Route) -> None:
    description = described(route)
    assert description["operationId"] == operation_id(route)
    assert re.fullmatch(r"[A-Z'].{5,80}[^.]", description["summary"]), "a summary is one phrase"
    assert set(description["tags"]) <= set(TAGS)
    names = set(re.findall(r"\{(\w+)\}", route.path))
    assert {p["name"] for p in description.get("parameters", ()) if p["in"] == "path"} == names
    assert {p["name"] for p in description.get("parameters", ()) if p["in"] == "query"} == set(route.query)
    assert all(p["schema"] and p["description"] for p in description.get("parameters", ()))
    successes = [status for status in description["responses"] if status < "300"]
    assert successes == ["202" if route.operation == "prompt.submit" else "200"]
    is_empty = "content" not in description["responses"][successes[0]]
    if route.handler:
        assert is_empty == (route.handler in EMPTY_RESPONSES)
    else:
        assert is_empty == (OPERATIONS[route.operation].gives is None)


@pytest.mark.parametrize("route", ROUTES, ids=operation_id)
async def test_errors_are_known_codes_under_their_status(route: Route) -> None:
    documented: set[str] = set()
    for status, response in described(route)["responses"].items():
        if status < "300":
            continue
        content = resolved(response)["content"]
        names = content["application/json"]["schema"]["properties"]["code"]["enum"]
        assert all(route.status(name) == int(status) for name in names)
        documented |= set(names)
    assert documented == codes(route)


async def test_every_reference_and_link_has_a_target() -> None:
    for value in walked(DOCUMENT):
        if isinstance(value, dict) and "$ref" in value:
            assert resolved(value)
        if isinstance(value, dict) and "operationId" in value and "parameters" in value and "responses" not in value:
            assert value["operationId"] in {operation_id(route) for route in ROUTES}, "a link without a target"


async def test_a_created_resource_links_to_the_operations_on_it() -> None:
    paths = DOCUMENT["paths"]
    workspace = paths["/v1/workspaces"]["post"]["responses"]["200"]["links"]
    assert {"get_workspace", "session_create", "prompt_submit", "stream_events", "config_get"} <= set(workspace)
    session = paths["/v1/workspaces/{id}/sessions"]["post"]["responses"]["200"]["links"]
    assert {"session_get", "session_messages", "prompt_cancel", "shell_run"} <= set(session)
    assert set(paths["/v1/workspaces/{id}/agent"]["post"]["responses"]["202"]["links"]) == {"run_get"}


async def test_every_kind_of_event_has_its_envelope() -> None:
    choices = DOCUMENT["components"]["schemas"]["Event"]["oneOf"]
    assert [choice["properties"]["type"]["const"] for choice in choices] == list(EVENTS)


@pytest.mark.parametrize("kind", EVENTS)
async def test_the_envelope_of_an_event_names_its_changes_and_its_payload(kind: str) -> None:
    row = EVENTS[kind]
    choices = DOCUMENT["components"]["schemas"]["Event"]["oneOf"]
    (choice,) = [choice for choice in choices if choice["properties"]["type"]["const"] == kind]
    inner = choice["properties"]["payload"]["properties"]
    assert inner["type"]["enum"] == list(row.changes)
    expected = {"$ref": f"#/components/schemas/{row.payload.__name__}"} if row.payload else {"type": "object"}
    assert inner["payload"] == expected


async def test_response_fields_are_required_if_always_written_and_body_fields_only_without_a_default() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for kind in (Session, Message, Run, Workspace, WorkerStatus, PermissionRequest, Diagnostic, LspInfo, McpInfo):
        written = msgspec.json.decode(msgspec.json.encode(kind(**{f.name: smallest(f) for f in needed(kind)})))
        assert set(schemas[kind.__name__]["required"]) == set(written), kind
    assert set(schemas["TextData"]["required"]) == {"text"}
    assert schemas["TextPart"]["required"] == ["type", "data"]
    assert schemas["Config"]["required"] == ["providers", "options"]
    for kind in (PermissionRequest, Todo, SelectedModel):
        schema = schemas[f"{kind.__name__}Input"]
        assert set(schema.get("required", ())) == {field.name for field in needed(kind)}
        assert schema["title"] == f"{kind.__name__}Input"
    assert schemas["Grant"]["properties"]["permission"]["$ref"].endswith("/PermissionRequestInput")
    assert not any(f"{name}Input" in schemas for name in ("Skip", "Session", "ErrorBody")), "same type both ways"


@pytest.mark.parametrize("route", [route for route in ROUTES if takes(route) is not None], ids=operation_id)
async def test_the_example_of_a_body_is_valid(route: Route) -> None:
    example = EXAMPLES[route.operation or route.handler]
    read = msgspec.convert(example, takes(route)) if not has_raw(takes(route)) else None
    if read is None:
        read = msgspec.json.decode(msgspec.json.encode(example), type=takes(route))
    assert set(example) <= set(read.__struct_fields__), "an example has a field that the type does not have"


async def test_bodies_are_described_by_the_type_that_the_handler_reads() -> None:
    worker = handlers_that_read((ROOT / "worker" / "operations").glob("*.py"), "read", position=1)
    assert worker == {name: row.takes.__name__ for name, row in OPERATIONS.items() if row.takes is not None}
    local = readers((ROOT / "supervisor" / "http").glob("*.py"), "json", position=0)
    documented = {route.handler: route.takes.__name__ for route in ROUTES if route.handler and route.takes is not None}
    assert set(documented.values()) == set(local.values()) - {"_Scope"}, "handlers of the supervisor, by type"


def needed(kind: Any) -> list[Any]:
    """Return the fields without a default."""
    return [field for field in msgspec.structs.fields(kind) if field.required]


def smallest(field: Any) -> Any:
    """Return a value that can be encoded as this field."""
    return [] if "list" in str(field.type) else {"a": 1}


# --- helpers ------------------------------------------------------------------------------------------------------


def handlers_that_read(paths: Any, function: str, position: int) -> dict[str, str]:
    """Return operation -> name of the type that its handler passes to `read`."""
    types: dict[str, str] = {}
    for path in paths:
        methods = readers([path], function, position)
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.FunctionDef) and node.name == "handlers"):
                continue
            for pairs in ast.walk(node):
                if not isinstance(pairs, ast.Dict):
                    continue
                for key, value in zip(pairs.keys, pairs.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Attribute) and value.attr in methods:
                        types[key.value] = methods[value.attr]
    return types


def readers(paths: Any, function: str, position: int) -> dict[str, str]:
    """Return function -> name of the type that it reads a body as."""
    types: dict[str, str] = {}
    for path in paths:
        for node in ast.walk(ast.parse(Path(path).read_text())):
            if not isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
                continue
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and _name(call.func) == function and len(call.args) > position:
                    kind = call.args[position]
                    if isinstance(kind, ast.Name) and kind.id[:1].isupper() | kind.id.startswith("_"):
                        types[node.name] = kind.id
    return types


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def has_raw(kind: Any) -> bool:
    return any("Raw" in str(field.type) for field in msgspec.structs.fields(kind))


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in value:
        node: Any = DOCUMENT
        for word in value["$ref"].removeprefix("#/").split("/"):
            node = node[word]
        value = node
    return value


def walked(value: Any) -> Any:
    yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walked(each)
