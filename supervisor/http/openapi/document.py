"""Make the OpenAPI 3.1 description from the tables that serve requests: routes, operations, types, error codes."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from protocol.operations import OPERATIONS
from protocol.version import BULKHEAD_VERSION
from supervisor.http.openapi import parameters
from supervisor.http.openapi.examples import EXAMPLES
from supervisor.http.openapi.schemas import AT, Schemas, content, gives, takes
from supervisor.http.routes import ROUTES, WAKING, Route

TAGS = {
    "server": "Server and workers, and this description.",
    "workspaces": "A directory and the worker process that belongs to it.",
    "events": "The events of a workspace as a stream.",
    "sessions": "Conversations, their messages and files.",
    "agent": "Prompts, runs, and the direct shell command.",
    "permissions": "Permissions of the agent, and its questions.",
    "configuration": "Models, providers, keys, the project.",
    "language servers": "Language servers and their diagnostics.",
    "skills": "Instructions that the agent can load.",
    "mcp": "Servers that speak the Model Context Protocol.",
}
_TAG_OF = {
    "session": "sessions",
    "workspace": "sessions",
    "filetracker": "sessions",
    "agent": "agent",
    "prompt": "agent",
    "run": "agent",
    "shell": "agent",
    "permissions": "permissions",
    "questions": "permissions",
    "config": "configuration",
    "project": "configuration",
    "lsp": "language servers",
    "skill": "skills",
    "mcp": "mcp",
}
"""By the first word of an operation."""

_UNKNOWN = {
    "id": "route_unknown",
    "client_id": "route_unknown",
    "sid": "session_unknown",
    "run": "run_unknown",
    "lsp": "not_found",
}
"""The error code for an unknown word of the path."""

EVERYWHERE = ("bad_input", "unauthorized", "forbidden", "too_large", "headers_too_large", "request_timeout", "internal")
"""The codes that every request can get: access, size, a query that is not UTF-8, a bug of the server."""

OF_WORKERS = (
    *WAKING,
    "workspace_unknown",
    "workspace_closing",
    "too_many_calls",
    "storage_full",
    "storage_failed",
    "storage_busy",
    "unavailable",
)
"""The codes that every request to a worker can get."""

DESCRIPTION = """\
A host for coding agents: one isolated worker process for each workspace, behind one HTTP API. Success is `200` (a
prompt: `202`); every error has a stable `code`. Over a Unix socket no token is needed; over TCP every request needs
`Authorization: Bearer TOKEN`, this description and its page included.
"""

_STATUS_TEXT = {
    400: "The request is invalid",
    401: "A token is needed",
    403: "Not allowed",
    404: "Not found",
    409: "Not possible in the present state",
    413: "Too large",
    429: "A limit was reached",
    431: "The headers are too large",
    500: "A bug of this server",
    502: "The model provider failed",
    503: "Not available now; try again after `Retry-After` seconds",
    504: "No answer in time; the outcome is unknown",
    507: "The disk is full",
}


def operation_id(route: Route) -> str:
    """Return the name of a route for programs: `create_workspace`, `session_get`."""
    return (route.operation or route.handler).replace(".", "_")


def tag(route: Route) -> str:
    """Return the group of a route."""
    if route.operation:
        return _TAG_OF[route.operation.partition(".")[0]]
    if route.path.endswith("/events"):
        return "events"
    return "workspaces" if route.path.startswith("/v1/workspaces") else "server"


def codes(route: Route) -> frozenset[str]:
    """Return the error codes that this route can answer with."""
    possible = {*EVERYWHERE, *route.codes}
    if route.operation:
        possible |= {*OF_WORKERS, *OPERATIONS[route.operation].codes}
    elif "{id}" in route.path and route.handler != "release_workspace":
        possible.add("workspace_unknown")
    for word, code in _UNKNOWN.items():
        if f"{{{word}}}" in route.path:
            possible |= {code, "route_unknown"}  # an empty word makes another path
    if not route.operation and tag(route) != "server":
        possible |= {"server_exiting", "unavailable"}  # while the server starts or stops
    return frozenset(possible)


def document(routes: Iterable[Route] = ROUTES) -> dict[str, Any]:
    """Return the whole description, ready for JSON."""
    routes = tuple(routes)
    schemas, errors = Schemas(routes), _Errors()
    paths: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for route in routes:
        paths[route.path][route.method.lower()] = _operation(route, schemas, errors)
    _link(paths)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Bulkhead",
            "version": BULKHEAD_VERSION,
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "This server"}],
        "security": [{"token": []}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": dict(sorted(errors.responses.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "On TCP only."}},
        },
    }


def _operation(route: Route, schemas: Schemas, errors: "_Errors") -> dict[str, Any]:
    status, is_optional = 200, False
    if route.operation:
        row = OPERATIONS[route.operation]
        status, is_optional = row.status, row.is_body_optional
    operation: dict[str, Any] = {"operationId": operation_id(route), "summary": route.summary, "tags": [tag(route)]}
    if words := parameters.of(route):
        operation["parameters"] = words
    if (body := takes(route)) is not None:
        media: dict[str, Any] = {"schema": schemas.body(body)}
        if (example := EXAMPLES.get(route.operation or route.handler)) is not None:
            media["example"] = example
        operation["requestBody"] = {"required": not is_optional, "content": {"application/json": media}}
    answer: dict[str, Any] = {"description": "Done" if gives(route) is None else "The answer"}
    if (value := gives(route)) is not None:
        answer["content"] = content(schemas, value)
    operation["responses"] = {str(status): answer, **errors.of(route)}
    return operation


class _Errors:
    """Collect the error answers: routes with the same codes under a status share one description of it."""

    def __init__(self) -> None:
        self.responses: dict[str, dict[str, Any]] = {}
        self._names: dict[tuple[int, tuple[str, ...]], str] = {}

    def of(self, route: Route) -> dict[str, Any]:
        """Return the error answers of `route` by status."""
        by_status: defaultdict[int, list[str]] = defaultdict(list)
        for code in sorted(codes(route)):
            by_status[route.status(code)].append(code)
        return {
            str(status): {"$ref": f"#/components/responses/{self._name(status, tuple(names))}"}
            for status, names in sorted(by_status.items())
        }

    def _name(self, status: int, names: tuple[str, ...]) -> str:
        name = self._names.get((status, names))
        if name is None:
            count = sum(each == status for each, _ in self._names)
            name = self._names[status, names] = f"Error{status}" + (f"v{count + 1}" if count else "")
            self.responses[name] = _error(status, names)
        return name


def _error(status: int, names: tuple[str, ...]) -> dict[str, Any]:
    schema = {"allOf": [{"$ref": f"{AT}ErrorBody"}], "properties": {"code": {"enum": list(names)}}}
    response: dict[str, Any] = {
        "description": _STATUS_TEXT.get(status, "Not possible"),
        "content": {"application/json": {"schema": schema}},
    }
    if status == 503:
        whole = {"type": "integer", "minimum": 1}
        response["headers"] = {"Retry-After": {"description": "Seconds", "required": True, "schema": whole}}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
    return response


def _link(paths: dict[str, dict[str, Any]]) -> None:
    """Link answers to the requests that they make possible: a workspace, a session, a prompt to its run."""
    workspace, session, run = "/v1/workspaces/{id}", "/v1/workspaces/{id}/sessions", "/v1/workspaces/{id}/agent"
    _link_answer(paths, paths["/v1/workspaces"]["post"]["responses"]["200"], {"id": "$response.body#/id"}, workspace)
    in_session = {"id": "$request.path.id", "sid": "$response.body#/id"}
    created = paths[session]["post"]["responses"]["200"]
    _link_answer(paths, created, in_session, workspace)
    created["links"]["prompt_submit"] = {
        "operationId": "prompt_submit",
        "parameters": {"id": "$request.path.id"},
        "requestBody": {"session_id": "$response.body#/id", "prompt": "/say hello"},
    }
    accepted = {"id": "$request.path.id", "run": "$response.body#/run_id"}
    _link_answer(paths, paths[run]["post"]["responses"]["202"], accepted, workspace)


def _link_answer(paths: dict[str, Any], answer: dict[str, Any], parameters: dict[str, str], prefix: str) -> None:
    """Link an answer to every operation under `prefix` whose path parameters are exactly these."""
    links = {}
    for path, methods in paths.items():
        words = {word[1:-1] for word in path.split("/") if word.startswith("{")}
        if path.startswith(prefix) and words == set(parameters):
            for operation in methods.values():
                links[operation["operationId"]] = {"operationId": operation["operationId"], "parameters": parameters}
    answer["links"] = links
