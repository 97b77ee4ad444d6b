"""The OpenAPI 3.1 description, made from the tables that serve: routes, operations, shapes, error codes."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from protocol.errors import CODES
from protocol.operations import OPERATIONS
from protocol.version import BULKHEAD_VERSION
from supervisor.http.openapi import parameters
from supervisor.http.openapi.examples import EXAMPLES
from supervisor.http.openapi.schemas import AT, Schemas, content, gives, takes
from supervisor.http.routes import ROUTES, WAKING, Route

TAGS = {
    "server": "Who is there, what the workers do, this description.",
    "workspaces": "A directory and the worker process that belongs to it.",
    "events": "What happens, as it happens.",
    "sessions": "Conversations, their messages and files.",
    "agent": "Prompts, runs, and the direct shell command.",
    "permissions": "What the agent may do, and what it asks.",
    "configuration": "Models, providers, keys, the project.",
    "language servers": "What they say is wrong.",
    "skills": "Instructions that the agent can look up.",
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
"""What is said to a word of the path that is no id of ours."""

EVERYWHERE = ("bad_input", "unauthorized", "forbidden", "too_large", "headers_too_large", "request_timeout", "internal")
"""What any request can meet: access, size, a query that is not UTF-8, a bug of ours."""

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
"""What any request can meet that a worker answers."""

DESCRIPTION = """\
A home for coding agents: one isolated worker process for each workspace, behind one HTTP API. Success is `200` (a
prompt: `202`); every error has a stable `code`. Over a Unix socket no token is needed; over TCP every request needs
`Authorization: Bearer TOKEN`, this description and its page included.
"""

_STATUS_TEXT = {
    400: "The request cannot be meant like this",
    401: "A token is needed",
    403: "Not allowed",
    404: "There is no such thing",
    409: "Right, but not in the present state",
    413: "Too large",
    429: "A limit was reached",
    431: "The headers are too large",
    500: "A bug of this server",
    502: "The model provider failed",
    503: "Nobody can answer now; try again after `Retry-After` seconds",
    504: "No answer in time; the outcome is unknown",
    507: "The disk is full",
}


def operation_id(route: Route) -> str:
    """The name of a route for programs: `create_workspace`, `session_get`."""
    return (route.operation or route.handler).replace(".", "_")


def tag(route: Route) -> str:
    """The group of a route."""
    if route.operation:
        return _TAG_OF[route.operation.partition(".")[0]]
    if route.path.endswith("/events"):
        return "events"
    return "workspaces" if route.path.startswith("/v1/workspaces") else "server"


def codes(route: Route) -> frozenset[str]:
    """The error codes that this route can answer with."""
    found = {*EVERYWHERE, *route.codes}
    if route.operation:
        found |= {*OF_WORKERS, *OPERATIONS[route.operation].codes}
    elif "{id}" in route.path and route.handler != "release_workspace":
        found.add("workspace_unknown")
    for word, code in _UNKNOWN.items():
        if f"{{{word}}}" in route.path:
            found |= {code, "route_unknown"}  # a word that is empty makes another path
    if not route.operation and tag(route) != "server":
        found |= {"server_exiting", "unavailable"}  # while the server starts or leaves
    return frozenset(found)


def document(routes: Iterable[Route] = ROUTES) -> dict[str, Any]:
    """The whole description, ready for JSON."""
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
    found: dict[str, Any] = {"operationId": operation_id(route), "summary": route.summary, "tags": [tag(route)]}
    if words := parameters.of(route):
        found["parameters"] = words
    if (body := takes(route)) is not None:
        media: dict[str, Any] = {"schema": schemas.body(body)}
        if (example := EXAMPLES.get(route.operation or route.handler)) is not None:
            media["example"] = example
        found["requestBody"] = {"required": not is_optional, "content": {"application/json": media}}
    answer: dict[str, Any] = {"description": "Done" if gives(route) is None else "The answer"}
    if (value := gives(route)) is not None:
        answer["content"] = content(schemas, value)
    found["responses"] = {str(status): answer, **errors.of(route)}
    return found


class _Errors:
    """The error answers: routes with the same codes under a status share one description of it."""

    def __init__(self) -> None:
        self.responses: dict[str, dict[str, Any]] = {}
        self._names: dict[tuple[int, tuple[str, ...]], str] = {}

    def of(self, route: Route) -> dict[str, Any]:
        """What `route` can answer instead of success."""
        by_status: defaultdict[int, list[str]] = defaultdict(list)
        for code in sorted(codes(route)):
            by_status[CODES[code][1]].append(code)
        return {
            str(status): {"$ref": f"#/components/responses/{self._name(status, tuple(names))}"}
            for status, names in sorted(by_status.items())
        }

    def _name(self, status: int, names: tuple[str, ...]) -> str:
        name = self._names.get((status, names))
        if name is None:
            count = sum(known == status for known, _ in self._names)
            name = self._names[status, names] = f"Error{status}" + (f"v{count + 1}" if count else "")
            self.responses[name] = _error(status, names)
        return name


def _error(status: int, names: tuple[str, ...]) -> dict[str, Any]:
    schema = {"allOf": [{"$ref": f"{AT}ErrorBody"}], "properties": {"code": {"enum": list(names)}}}
    found: dict[str, Any] = {
        "description": _STATUS_TEXT.get(status, "Not possible"),
        "content": {"application/json": {"schema": schema}},
    }
    if status == 503:
        whole = {"type": "integer", "minimum": 1}
        found["headers"] = {"Retry-After": {"description": "Seconds", "required": True, "schema": whole}}
    if status == 401:
        found["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
    return found


def _link(paths: dict[str, dict[str, Any]]) -> None:
    """Say how an answer leads on: a workspace to what is below it, a session, a prompt to its run."""
    workspace, session, run = "/v1/workspaces/{id}", "/v1/workspaces/{id}/sessions", "/v1/workspaces/{id}/agent"
    _lead(paths, paths["/v1/workspaces"]["post"]["responses"]["200"], {"id": "$response.body#/id"}, workspace)
    here = {"id": "$request.path.id", "sid": "$response.body#/id"}
    made = paths[session]["post"]["responses"]["200"]
    _lead(paths, made, here, workspace)
    made["links"]["prompt_submit"] = {
        "operationId": "prompt_submit",
        "parameters": {"id": "$request.path.id"},
        "requestBody": {"session_id": "$response.body#/id", "prompt": "/say hello"},
    }
    accepted = {"id": "$request.path.id", "run": "$response.body#/run_id"}
    _lead(paths, paths[run]["post"]["responses"]["202"], accepted, workspace)


def _lead(paths: dict[str, dict[str, Any]], answer: dict[str, Any], known: dict[str, str], below: str) -> None:
    """Link an answer to every operation whose path words are just those that it makes known."""
    links = {}
    for path, methods in paths.items():
        words = {word[1:-1] for word in path.split("/") if word.startswith("{")}
        if path.startswith(below) and words == set(known):
            for operation in methods.values():
                links[operation["operationId"]] = {"operationId": operation["operationId"], "parameters": known}
    answer["links"] = links
