"""Define the HTTP API as one table: method, path, operation or handler, query parameters. Most rows need no code.

A row names either an operation of the worker or a handler of the supervisor. Path parameters (in braces) and the listed
query parameters become the arguments of the operation.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from protocol.api.server import Command, Version
from protocol.api.workspace import CreateWorkspace, CurrentSession, WorkerStatus, Workspace
from protocol.errors import BadInput, NotFound


@dataclass(frozen=True, slots=True)
class Route:
    """One route. Exactly one of `operation` and `handler` is set."""

    method: str
    path: str
    operation: str = ""
    handler: str = ""
    summary: str = ""
    query: Mapping[str, str] = field(default_factory=dict)  # query parameter -> argument of the operation
    needs: Collection[str] = ()  # required query parameters
    headers: Collection[str] = ()  # request headers that are used
    takes: Any = None  # for a handler: the type of the body; operations define their own
    gives: Any = None  # for a handler: the type of the response; None: empty
    codes: tuple[str, ...] = ()  # for a handler: its specific errors
    is_use: bool = True  # whether this request counts as use of the server (--idle-exit)
    sends_env: bool = False  # whether the operation gets the environment of the workspace's first client as `env`


def _to(operation: str, method: str, subpath: str, summary: str, **more: Any) -> Route:
    return Route(method, f"/v1/workspaces/{{id}}{subpath}", operation=operation, summary=summary, **more)


def _by(handler: str, method: str, path: str, summary: str, **more: Any) -> Route:
    return Route(method, path, handler=handler, summary=summary, **more)


STREAM = "stream_events"
"""The handler whose response is an endless stream."""

EVENT_STREAM, PAGE, METRICS = "text/event-stream", "text/html", "text/plain"
"""Media types of responses that are not JSON; JSON responses are given by their type."""

WAKING = ("worker_starting", "worker_failed", "worker_lost", "server_exiting", "deadline", "workspace_moved")
"""Errors that may occur while a worker is started and called."""

_DESCRIBING = (*WAKING, "too_many_calls", "workspace_closing")
"""Errors that may occur while a worker is asked to describe its workspace."""

_CALLER = {"client_id": "client_id"}

ROUTES: tuple[Route, ...] = (
    # the server
    _by("health", "GET", "/v1/health", "Check that the server is up; available as soon as it listens", is_use=False),
    _by("version", "GET", "/v1/version", "The version, build and platform of the server", is_use=False, gives=Version),
    _by(
        "server_config",
        "GET",
        "/v1/config",
        "The server's own settings; always an empty object",
        is_use=False,
        gives=dict[str, Any],
    ),
    _by(
        "control",
        "POST",
        "/v1/control",
        "Ask an idle server to exit",
        is_use=False,
        takes=Command,
        codes=("not_idle",),
    ),
    _by("retire_client", "DELETE", "/v1/clients/{client_id}", "Detach a client from all workspaces for good"),
    _by(
        "list_workers",
        "GET",
        "/v1/workers",
        "Every registered workspace with its worker: state, process, memory, runs",
        is_use=False,
        gives=list[WorkerStatus],
        query={"memory": "memory"},
    ),
    _by(
        "metrics",
        "GET",
        "/metrics",
        "Metrics of the server and its workers for Prometheus",
        is_use=False,
        gives=METRICS,
    ),
    _by(
        "openapi", "GET", "/v1/openapi.json", "This API description as OpenAPI 3.1", is_use=False, gives=dict[str, Any]
    ),
    _by("docs", "GET", "/v1/docs", "This API description as an HTML page", is_use=False, gives=PAGE),
    # workspaces
    _by(
        "list_workspaces",
        "GET",
        "/v1/workspaces",
        "All registered workspaces; sleeping workers are not started",
        gives=list[Workspace],
    ),
    _by(
        "create_workspace",
        "POST",
        "/v1/workspaces",
        "Find or create the workspace of a directory, and wait until its worker is ready",
        takes=CreateWorkspace,
        gives=Workspace,
        codes=("client_retired", "conflict", "too_many_workspaces", "storage_failed", *_DESCRIBING),
    ),
    _by(
        "get_workspace",
        "GET",
        "/v1/workspaces/{id}",
        "One workspace with its configuration; starts its worker",
        gives=Workspace,
        codes=_DESCRIBING,
    ),
    _by(
        "release_workspace",
        "DELETE",
        "/v1/workspaces/{id}",
        "Detach a client from the workspace; its runs continue",
        query=_CALLER,
        needs=_CALLER,
    ),
    _by(
        "set_current_session",
        "POST",
        "/v1/workspaces/{id}/current-session",
        "Set the session that a client shows; requires an open event stream",
        takes=CurrentSession,
        query=_CALLER,
        needs=_CALLER,
        codes=("not_attached",),
    ),
    _by(
        STREAM,
        "GET",
        "/v1/workspaces/{id}/events",
        "The events of the workspace as an endless stream of Server-Sent Events",
        gives=EVENT_STREAM,
        query={**_CALLER, "ids": "ids"},
        headers=("Last-Event-ID",),
        codes=("too_many_clients", "server_exiting"),
    ),
    _by(
        "restart_worker",
        "POST",
        "/v1/workspaces/{id}/restart",
        "Restart the worker, also after it has `failed`",
        codes=WAKING,
    ),
    _by(
        "evict_worker", "POST", "/v1/workspaces/{id}/evict", "Put an idle worker to sleep now", codes=("busy", *WAKING)
    ),
    _by(
        "remove_registration",
        "DELETE",
        "/v1/workspaces/{id}/registration",
        "Remove the workspace from the server; its files stay",
        codes=("storage_failed", *WAKING),
    ),
    _to("config.get", "GET", "/config", "The merged configuration with secrets masked"),
    _to("config.providers", "GET", "/providers", "The available providers and their models"),
    # sessions, messages, files
    _to("session.list", "GET", "/sessions", "Top-level sessions, most recently changed first"),
    _to("session.create", "POST", "/sessions", "Create a session; only the title can be given"),
    _to("session.get", "GET", "/sessions/{sid}", "One session, including child sessions"),
    _to("session.put", "PUT", "/sessions/{sid}", "Change the title, cost or todos; omitted fields stay unchanged"),
    _to(
        "session.delete",
        "DELETE",
        "/sessions/{sid}",
        "Cancel the session's runs, and delete it with its children and messages",
    ),
    _to("session.history", "GET", "/sessions/{sid}/history", "The versions of the files that the session changed"),
    _to("session.messages", "GET", "/sessions/{sid}/messages", "The messages of the session, oldest first"),
    _to(
        "session.user_messages",
        "GET",
        "/sessions/{sid}/messages/user",
        "The user's messages in the session, newest first",
    ),
    _to("workspace.user_messages", "GET", "/messages/user", "The user's messages in all sessions, newest first"),
    _to(
        "filetracker.list",
        "GET",
        "/sessions/{sid}/filetracker/files",
        "The absolute paths of the files that the session has read, latest first",
    ),
    _to("filetracker.read", "POST", "/filetracker/read", "Record that the session has read a file"),
    _to(
        "filetracker.last_read",
        "GET",
        "/filetracker/lastread",
        "When the session last read a file",
        query={"session_id": "session_id", "path": "path"},
    ),
    # the agent
    _to("agent.info", "GET", "/agent", "The current model, and whether a run is active"),
    _to("prompt.submit", "POST", "/agent", "Submit a prompt; responds with 202 once it is stored"),
    _to("agent.init", "POST", "/agent/init", "Initialize the agent; the body may be omitted"),
    _to("agent.update", "POST", "/agent/update", "Reload the configuration for later turns"),
    _to("agent.session", "GET", "/agent/sessions/{sid}", "One session, and whether it is busy"),
    _to(
        "prompt.cancel",
        "POST",
        "/agent/sessions/{sid}/cancel",
        "Cancel all prompts accepted so far, or one run",
        query={"run_id": "run"},
    ),
    _to("prompt.count", "GET", "/agent/sessions/{sid}/prompts/queued", "The number of queued prompts"),
    _to("prompt.list", "GET", "/agent/sessions/{sid}/prompts/list", "The texts of the queued prompts"),
    _to("prompt.clear", "POST", "/agent/sessions/{sid}/prompts/clear", "Cancel the queued prompts"),
    _to(
        "agent.summarize", "POST", "/agent/sessions/{sid}/summarize", "Summarize a session; responds when that is done"
    ),
    _to(
        "agent.default_small_model",
        "GET",
        "/agent/default-small-model",
        "The default small model of a provider",
        query={"provider_id": "provider_id"},
    ),
    _to(
        "run.list",
        "GET",
        "/runs",
        "The runs with their states and outcomes, newest first",
        query={"session_id": "session_id", "limit": "limit"},
    ),
    _to("run.get", "GET", "/runs/{run}", "One run with its state and outcome"),
    _to(
        "shell.run",
        "POST",
        "/agent/sessions/{sid}/shell",
        "Run a shell command of the user in the workspace",
        sends_env=True,
    ),
    # permissions and questions
    _to("permissions.get_skip", "GET", "/permissions/skip", "Whether tools run without permission"),
    _to("permissions.set_skip", "POST", "/permissions/skip", "Set whether tools run without permission"),
    _to("permissions.list", "GET", "/permissions", "Open permission requests, oldest first"),
    _to("permissions.grant", "POST", "/permissions/grant", "Grant or deny a permission request"),
    _to("questions.list", "GET", "/questions", "Open questions of the agent, oldest first"),
    _to("questions.answer", "POST", "/questions/answer", "Answer the questions of the agent"),
    _to(
        "questions.cancel",
        "POST",
        "/questions/cancel",
        "Refuse to answer questions of the agent",
        query={"batch_request_id": "batch"},
    ),
    # configuration and project
    _to("config.set", "POST", "/config/set", "Set a configuration key to a JSON value"),
    _to("config.remove", "POST", "/config/remove", "Remove a configuration key"),
    _to("config.model", "POST", "/config/model", "Select the large or the small model"),
    _to("config.compact", "POST", "/config/compact", "Turn the compact mode of terminal clients on or off"),
    _to("config.provider_key", "POST", "/config/provider-key", "Store a provider's API key or login"),
    _to(
        "config.import_copilot",
        "POST",
        "/config/import-copilot",
        "Import a GitHub Copilot login; always reports that there is none",
    ),
    _to("config.refresh_oauth", "POST", "/config/refresh-oauth", "Renew the login of a provider"),
    _to("project.needs_init", "GET", "/project/needs-init", "Whether a client should offer to write the context file"),
    _to(
        "project.init", "POST", "/project/init", "Mark the project as initialized: do not offer the context file again"
    ),
    _to("project.init_prompt", "GET", "/project/init-prompt", "The prompt that writes the context file"),
    # language servers, skills, MCP servers
    _to("lsp.list", "GET", "/lsps", "All language servers by name"),
    _to("lsp.diagnostics", "GET", "/lsps/{lsp}/diagnostics", "The diagnostics of a language server by file"),
    _to("lsp.start", "POST", "/lsps/start", "Start the language servers of a file"),
    _to("lsp.stop", "POST", "/lsps/stop", "Stop all language servers"),
    _to("skill.list", "GET", "/skills", "The usable skills"),
    _to("skill.read", "POST", "/skills/read", "The text of a skill"),
    _to("mcp.states", "GET", "/mcp/states", "All MCP servers with their states, by name"),
    _to("mcp.prompts", "GET", "/mcp/prompts", "The prompts of all MCP servers"),
    _to("mcp.get_prompt", "POST", "/mcp/get-prompt", "The text of a prompt of an MCP server"),
    _to("mcp.read_resource", "POST", "/mcp/read-resource", "Read a resource of an MCP server"),
    _to("mcp.refresh_tools", "POST", "/mcp/refresh-tools", "Request the tools of an MCP server again"),
    _to("mcp.refresh_prompts", "POST", "/mcp/refresh-prompts", "Request the prompts of an MCP server again"),
    _to("mcp.refresh_resources", "POST", "/mcp/refresh-resources", "Request the resources of an MCP server again"),
    _to("mcp.pending_auth", "GET", "/mcp/pending-auth", "The MCP servers that require a login"),
    _to(
        "mcp.auth_url",
        "GET",
        "/mcp/auth-url",
        "The URL to open in a browser for a login that is under way",
        query={"name": "name"},
        needs=("name",),
    ),
    _to("mcp.auth", "POST", "/mcp/auth", "Log in at an MCP server; responds when the login has ended"),
    _to("mcp.docker_enable", "POST", "/mcp/docker/enable", "Add Docker's MCP gateway to the configuration"),
    _to("mcp.docker_disable", "POST", "/mcp/docker/disable", "Remove Docker's MCP gateway from the configuration"),
)


class MethodUnknown(BadInput):
    """The path exists, but not for this method; `allowed` lists the valid methods."""

    default_code, default_status = "method_not_allowed", 405

    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(f"cannot use the method {method} here; use {', '.join(allowed)}")
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Match:
    """The route of a request, and the values of its path parameters."""

    route: Route
    params: dict[str, str]


class RouteTable:
    """Finds the route of a request with one look-up per path segment."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        # A parameter is stored under None, which no path segment can be.
        self._root: dict[str | None, Any] = {}
        for route in routes:
            node = self._root
            names = []
            for segment in route.path.strip("/").split("/"):
                if segment.startswith("{"):
                    names.append(segment[1:-1])
                node = node.setdefault(None if segment.startswith("{") else segment, {})
            methods = node.setdefault("", {})  # no path segment is empty
            assert route.method not in methods, route
            methods[route.method] = (route, names)

    def match(self, method: str, path: str) -> Match:
        """Return the route for `method` and the undecoded `path`. Raises NotFound, MethodUnknown, BadInput."""
        if not path.startswith("/"):
            raise _unknown(path)
        node = self._root
        values = []
        for segment in path[1:].split("/"):
            if segment and (child := node.get(segment)) is not None:
                node = child
            elif segment and (child := node.get(None)) is not None:
                # Decoded after splitting, so that an encoded slash stays inside its segment.
                values.append(_decoded(segment))
                node = child
            else:
                raise _unknown(path)
        methods = node.get("")
        if methods is None:
            raise _unknown(path)
        row = methods.get(method)
        if row is None:
            raise MethodUnknown(method, sorted(methods))
        route, names = row
        return Match(route, dict(zip(names, values, strict=True)))


def _decoded(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise BadInput("cannot read the path: its percent-encoded bytes are not UTF-8") from None


def _unknown(path: str) -> NotFound:
    return NotFound(
        f"there is no route {path[:200]!r}; all routes begin with /v1/ and are listed at /v1/docs", code="route_unknown"
    )
