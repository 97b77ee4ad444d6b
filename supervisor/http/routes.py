"""Define the API as one table of routes: method, path, operation or handler, query parameters, summary.

A route names either an operation of the worker, which needs no code here, or a handler of the supervisor. Path
parameters in braces and the listed query parameters become the arguments of the operation.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from protocol.api.server import Command, Version
from protocol.api.workspace import CreateWorkspace, CurrentSession, WorkerStatus, Workspace
from protocol.errors import STATUS_BY_CODE, BadInput, NotFound


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
    headers: Collection[str] = ()  # request headers that have an effect
    takes: Any = None  # type of a handler's body; an operation declares its own
    gives: Any = None  # type of a handler's response; None: empty
    codes: tuple[str, ...] = ()  # error codes that only this handler has
    is_use: bool = True  # whether this request counts as use of the server (--idle-exit)
    sends_env: bool = False  # whether the operation gets the environment of the workspace's first client, as `env`
    is_first_call: bool = False  # the first request of a client, which takes 503 to mean that the server exits

    def status(self, code: str) -> int:
        """Return the HTTP status of an error code on this route.

        On 503 to its first request the Crush client removes the socket file and starts a server of its own there. It
        gets 504 instead, unless the server does exit.
        """
        status = STATUS_BY_CODE[code]
        return 504 if self.is_first_call and status == 503 and code != "server_exiting" else status


def _operation(operation: str, method: str, path: str, summary: str, **more: Any) -> Route:
    return Route(method, f"/v1/workspaces/{{id}}{path}", operation=operation, summary=summary, **more)


def _handler(handler: str, method: str, path: str, summary: str, **more: Any) -> Route:
    return Route(method, path, handler=handler, summary=summary, **more)


STREAM = "stream_events"
"""The handler whose response does not end by itself."""

EVENT_STREAM, PAGE, METRICS = "text/event-stream", "text/html", "text/plain"
"""Media types of responses that are not JSON; a JSON response is described by the type of its value."""

WAKING = ("worker_starting", "worker_failed", "worker_lost", "server_exiting", "deadline", "workspace_moved")
"""Errors of every request that wakes and calls a worker."""

_DESCRIBING = (*WAKING, "too_many_calls", "workspace_closing")
"""Errors of a request that asks a worker to describe its workspace."""

_CALLER = {"client_id": "client_id"}

ROUTES: tuple[Route, ...] = (
    # the server
    _handler("health", "GET", "/v1/health", "Whether the server is up; works before it is ready", is_use=False),
    _handler("version", "GET", "/v1/version", "Version, build and platform of the server", is_use=False, gives=Version),
    _handler(
        "server_config",
        "GET",
        "/v1/config",
        "The server's own settings; always an empty object",
        is_use=False,
        gives=dict[str, Any],
    ),
    _handler(
        "control",
        "POST",
        "/v1/control",
        "Ask an idle server to exit",
        is_use=False,
        takes=Command,
        codes=("not_idle",),
    ),
    _handler("retire_client", "DELETE", "/v1/clients/{client_id}", "End all leases of a client, permanently"),
    _handler(
        "list_workers",
        "GET",
        "/v1/workers",
        "All registered workspaces with their workers: state, process, memory, runs",
        is_use=False,
        gives=list[WorkerStatus],
        query={"memory": "memory"},
    ),
    _handler(
        "get_worker",
        "GET",
        "/v1/workers/{id}",
        "One registered workspace with its worker, and the worker's last crashes",
        is_use=False,
        gives=WorkerStatus,
        query={"memory": "memory"},
    ),
    _handler(
        "metrics",
        "GET",
        "/metrics",
        "Metrics of the server and its workers for Prometheus",
        is_use=False,
        gives=METRICS,
    ),
    _handler(
        "openapi", "GET", "/v1/openapi.json", "This API description as OpenAPI 3.1", is_use=False, gives=dict[str, Any]
    ),
    _handler("docs", "GET", "/v1/docs", "This API description as an HTML page", is_use=False, gives=PAGE),
    # workspaces
    _handler(
        "list_workspaces",
        "GET",
        "/v1/workspaces",
        "All registered workspaces; does not start stopped workers",
        gives=list[Workspace],
    ),
    _handler(
        "create_workspace",
        "POST",
        "/v1/workspaces",
        "Find or register the workspace of a directory, and wait for its worker",
        takes=CreateWorkspace,
        gives=Workspace,
        codes=("client_retired", "conflict", "too_many_workspaces", "storage_failed", *_DESCRIBING),
        is_first_call=True,
    ),
    _handler(
        "get_workspace",
        "GET",
        "/v1/workspaces/{id}",
        "One workspace with its configuration; starts its worker",
        gives=Workspace,
        codes=_DESCRIBING,
    ),
    _handler(
        "release_workspace",
        "DELETE",
        "/v1/workspaces/{id}",
        "End the client's lease; runs continue",
        query=_CALLER,
        needs=_CALLER,
    ),
    _handler(
        "set_current_session",
        "POST",
        "/v1/workspaces/{id}/current-session",
        "Set the session that a client views; needs an open event stream",
        takes=CurrentSession,
        query=_CALLER,
        needs=_CALLER,
        codes=("not_attached",),
    ),
    _handler(
        STREAM,
        "GET",
        "/v1/workspaces/{id}/events",
        "Events of the workspace as Server-Sent Events; the response does not end",
        gives=EVENT_STREAM,
        query={**_CALLER, "ids": "ids", "deltas": "deltas"},
        headers=("Last-Event-ID",),
        codes=("too_many_clients", "server_exiting"),
    ),
    _handler(
        "restart_worker",
        "POST",
        "/v1/workspaces/{id}/restart",
        "Replace the worker; also restarts a `failed` workspace",
        codes=WAKING,
    ),
    _handler("evict_worker", "POST", "/v1/workspaces/{id}/evict", "Evict an idle worker now", codes=("busy", *WAKING)),
    _handler(
        "remove_registration",
        "DELETE",
        "/v1/workspaces/{id}/registration",
        "Remove the workspace's registration; its files stay",
        codes=("storage_failed", *WAKING),
    ),
    _operation("config.get", "GET", "/config", "The merged configuration, secrets masked"),
    _operation("config.providers", "GET", "/providers", "Available providers and their models"),
    # sessions, messages, files
    _operation("session.list", "GET", "/sessions", "Top-level sessions, most recently changed first"),
    _operation("session.create", "POST", "/sessions", "Create a session; the client sets only the title"),
    _operation("session.get", "GET", "/sessions/{sid}", "One session, also a child session"),
    _operation("session.put", "PUT", "/sessions/{sid}", "Change title, cost or todos; omitted fields keep their value"),
    _operation(
        "session.delete",
        "DELETE",
        "/sessions/{sid}",
        "Cancel the session's runs, then delete it with its children and messages",
    ),
    _operation("session.history", "GET", "/sessions/{sid}/history", "Versions of the files that the session changed"),
    _operation("session.messages", "GET", "/sessions/{sid}/messages", "All messages of the session, oldest first"),
    _operation(
        "session.user_messages",
        "GET",
        "/sessions/{sid}/messages/user",
        "The user's messages in the session, newest first",
    ),
    _operation("workspace.user_messages", "GET", "/messages/user", "The user's messages in all sessions, newest first"),
    _operation(
        "filetracker.list",
        "GET",
        "/sessions/{sid}/filetracker/files",
        "Absolute paths of the files that the session has read, latest first",
    ),
    _operation("filetracker.read", "POST", "/filetracker/read", "Record that the session has read a file"),
    _operation(
        "filetracker.last_read",
        "GET",
        "/filetracker/lastread",
        "When the session last read a file",
        query={"session_id": "session_id", "path": "path"},
    ),
    # the agent
    _operation("agent.info", "GET", "/agent", "Which model the agent uses, and whether a run is active"),
    _operation("prompt.submit", "POST", "/agent", "Submit a prompt: 202 once it is on disk"),
    _operation("agent.init", "POST", "/agent/init", "Initialise the agent; the body is optional"),
    _operation("agent.update", "POST", "/agent/update", "Reload the configuration, for later turns"),
    _operation(
        "agent.session", "GET", "/agent/sessions/{sid}", "A session with fewer fields: id, title, whether it is busy"
    ),
    _operation(
        "prompt.cancel",
        "POST",
        "/agent/sessions/{sid}/cancel",
        "Cancel all runs accepted so far, or one run",
        query={"run_id": "run"},
    ),
    _operation("prompt.count", "GET", "/agent/sessions/{sid}/prompts/queued", "The number of queued prompts"),
    _operation("prompt.list", "GET", "/agent/sessions/{sid}/prompts/list", "The texts of the queued prompts"),
    _operation("prompt.clear", "POST", "/agent/sessions/{sid}/prompts/clear", "Drop the queued prompts"),
    _operation(
        "agent.summarize", "POST", "/agent/sessions/{sid}/summarize", "Summarise a session; responds when it is done"
    ),
    _operation(
        "agent.default_small_model",
        "GET",
        "/agent/default-small-model",
        "A provider's default model for side tasks",
        query={"provider_id": "provider_id"},
    ),
    _operation(
        "run.list",
        "GET",
        "/runs",
        "All runs with their outcome, newest first",
        query={"session_id": "session_id", "limit": "limit"},
    ),
    _operation("run.get", "GET", "/runs/{run}", "State and outcome of one run"),
    _operation(
        "shell.run", "POST", "/agent/sessions/{sid}/shell", "Run a command of the user in the workspace", sends_env=True
    ),
    # permissions and questions
    _operation("permissions.get_skip", "GET", "/permissions/skip", "Whether tools run without asking"),
    _operation("permissions.set_skip", "POST", "/permissions/skip", "Set whether tools run without asking"),
    _operation("permissions.list", "GET", "/permissions", "Open permission requests, oldest first"),
    _operation("permissions.grant", "POST", "/permissions/grant", "Answer a permission request"),
    _operation("questions.list", "GET", "/questions", "Open questions of the agent, oldest first"),
    _operation("questions.answer", "POST", "/questions/answer", "Answer questions of the agent"),
    _operation(
        "questions.cancel",
        "POST",
        "/questions/cancel",
        "Decline to answer questions of the agent",
        query={"batch_request_id": "batch"},
    ),
    # configuration and project
    _operation("config.set", "POST", "/config/set", "Set a configuration key to any JSON value"),
    _operation("config.remove", "POST", "/config/remove", "Remove a configuration key"),
    _operation("config.model", "POST", "/config/model", "Select the large or the small model"),
    _operation("config.compact", "POST", "/config/compact", "Set the compact mode of the terminal interface"),
    _operation("config.provider_key", "POST", "/config/provider-key", "Store a key or a login of a provider"),
    _operation(
        "config.import_copilot",
        "POST",
        "/config/import-copilot",
        "Import a Copilot login of another program; not supported, always finds none",
    ),
    _operation("config.refresh_oauth", "POST", "/config/refresh-oauth", "Renew an OAuth login of a provider"),
    _operation(
        "project.needs_init", "GET", "/project/needs-init", "Whether a client should offer to create the context file"
    ),
    _operation("project.init", "POST", "/project/init", "Stop offering to create the context file"),
    _operation("project.init_prompt", "GET", "/project/init-prompt", "The prompt for writing the context file"),
    # language servers, skills, MCP servers
    _operation("lsp.list", "GET", "/lsps", "Language servers by name"),
    _operation("lsp.diagnostics", "GET", "/lsps/{lsp}/diagnostics", "The diagnostics of one language server, by file"),
    _operation("lsp.start", "POST", "/lsps/start", "Start the language servers of a file"),
    _operation("lsp.stop", "POST", "/lsps/stop", "Stop all language servers"),
    _operation("skill.list", "GET", "/skills", "All usable skills"),
    _operation("skill.read", "POST", "/skills/read", "The text of a skill"),
    _operation("mcp.states", "GET", "/mcp/states", "MCP servers by name"),
    _operation("mcp.prompts", "GET", "/mcp/prompts", "The prompts of all MCP servers"),
    _operation("mcp.get_prompt", "POST", "/mcp/get-prompt", "The text of one MCP prompt"),
    _operation("mcp.read_resource", "POST", "/mcp/read-resource", "Read a resource of an MCP server"),
    _operation("mcp.refresh_tools", "POST", "/mcp/refresh-tools", "Reload the tools of an MCP server"),
    _operation("mcp.refresh_prompts", "POST", "/mcp/refresh-prompts", "Reload the prompts of an MCP server"),
    _operation("mcp.refresh_resources", "POST", "/mcp/refresh-resources", "Reload the resources of an MCP server"),
    _operation("mcp.pending_auth", "GET", "/mcp/pending-auth", "MCP servers that wait for a login"),
    _operation(
        "mcp.auth_url",
        "GET",
        "/mcp/auth-url",
        "The URL to open in a browser for a login in progress",
        query={"name": "name"},
        needs=("name",),
    ),
    _operation("mcp.auth", "POST", "/mcp/auth", "Log in at an MCP server; responds when it is done"),
    _operation("mcp.docker_enable", "POST", "/mcp/docker/enable", "Add Docker's MCP gateway to the configuration"),
    _operation(
        "mcp.docker_disable", "POST", "/mcp/docker/disable", "Remove Docker's MCP gateway from the configuration"
    ),
)


class MethodUnknown(BadInput):
    """The path exists but does not support the method; `allowed` lists the supported ones."""

    default_code, default_status = "method_not_allowed", 405

    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(f"cannot {method} this: it supports {', '.join(allowed)}")
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """The route of a request, and the values of its path parameters."""

    route: Route
    params: dict[str, str]


class RouteTable:
    """Finds the route of a request, with one look-up per path segment."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        # A path parameter is stored under the key None, which no segment of a request can equal.
        self._root: dict[str | None, Any] = {}
        for route in routes:
            node = self._root
            names = []
            for word in route.path.strip("/").split("/"):
                if word.startswith("{"):
                    names.append(word[1:-1])
                node = node.setdefault(None if word.startswith("{") else word, {})
            methods = node.setdefault("", {})  # no path segment is empty
            assert route.method not in methods, route
            methods[route.method] = (route, names)

    def match(self, method: str, path: str) -> RouteMatch:
        """Return the route for `method` and the undecoded `path`. Raises NotFound, MethodUnknown, BadInput."""
        if not path.startswith("/"):
            raise _unknown(path)
        node = self._root
        values = []
        for word in path[1:].split("/"):
            if word and (child := node.get(word)) is not None:
                node = child
            elif word and (child := node.get(None)) is not None:
                # Decoded after splitting, so that an encoded slash stays inside its segment.
                values.append(_decoded(word))
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
        return RouteMatch(route, dict(zip(names, values, strict=True)))


def _decoded(word: str) -> str:
    try:
        return unquote(word, errors="strict")
    except UnicodeDecodeError:
        raise BadInput("cannot read the path: percent-encoded bytes must be UTF-8") from None


def _unknown(path: str) -> NotFound:
    return NotFound(f"there is no route {path[:200]!r}; all routes are listed at /v1/docs", code="route_unknown")
