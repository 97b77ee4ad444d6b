"""The API as one table: method, path, who answers, which query words are passed on. Most rows need no code.

A row names either a worker's operation or a handler of the door. Path words in braces and the query words listed
become the arguments of the operation.
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
    """One row. Exactly one of `operation` and `handler` is set."""

    method: str
    path: str
    operation: str = ""
    handler: str = ""
    summary: str = ""
    query: Mapping[str, str] = field(default_factory=dict)  # query word -> argument of the operation
    needs: Collection[str] = ()  # query words that must be there
    headers: Collection[str] = ()  # request headers that mean something
    takes: Any = None  # of a handler: the type of the body; an operation has its own
    gives: Any = None  # of a handler: the type of the answer; None: it is empty
    codes: tuple[str, ...] = ()  # of a handler: of the errors that only it has
    is_use: bool = True  # does this request mean that somebody needs the server (--idle-exit)?
    sends_env: bool = False  # does the operation get the environment of the workspace's first client, as `env`?


def _to(operation: str, method: str, below: str, summary: str, **more: Any) -> Route:
    return Route(method, f"/v1/workspaces/{{id}}{below}", operation=operation, summary=summary, **more)


def _by(handler: str, method: str, path: str, summary: str, **more: Any) -> Route:
    return Route(method, path, handler=handler, summary=summary, **more)


STREAM = "stream_events"
"""The handler whose answer does not end by itself."""

EVENT_STREAM, PAGE, METRICS = "text/event-stream", "text/html", "text/plain"
"""Answers that are not JSON, by their media type; the others are named by the type of their value."""

WAKING = ("worker_starting", "worker_failed", "worker_lost", "server_exiting", "deadline", "workspace_moved")
"""What can happen while a worker is woken and asked."""

_DESCRIBING = (*WAKING, "too_many_calls", "workspace_closing")
"""What can happen besides, when it is asked what its workspace is like."""

_CALLER = {"client_id": "client_id"}

ROUTES: tuple[Route, ...] = (
    # the server
    _by("health", "GET", "/v1/health", "Is the server there? Answered from the first moment", is_use=False),
    _by("version", "GET", "/v1/version", "Who answers: version, build, platform", is_use=False, gives=Version),
    _by(
        "server_config",
        "GET",
        "/v1/config",
        "The server's own settings; nothing is told",
        is_use=False,
        gives=dict[str, Any],
    ),
    _by(
        "control",
        "POST",
        "/v1/control",
        "Ask an idle server to leave",
        is_use=False,
        takes=Command,
        codes=("not_idle",),
    ),
    _by("retire_client", "DELETE", "/v1/clients/{client_id}", "A client leaves all workspaces for good"),
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
        "get_worker",
        "GET",
        "/v1/workers/{id}",
        "One registered workspace with its worker, and the worker's last crashes",
        is_use=False,
        gives=WorkerStatus,
        query={"memory": "memory"},
    ),
    _by("metrics", "GET", "/metrics", "The same in numbers, as Prometheus reads them", is_use=False, gives=METRICS),
    _by("openapi", "GET", "/v1/openapi.json", "This description", is_use=False, gives=dict[str, Any]),
    _by("docs", "GET", "/v1/docs", "This description as a page to read", is_use=False, gives=PAGE),
    # workspaces
    _by(
        "list_workspaces",
        "GET",
        "/v1/workspaces",
        "Every registered workspace; sleeping ones are not woken",
        gives=list[Workspace],
    ),
    _by(
        "create_workspace",
        "POST",
        "/v1/workspaces",
        "Find or make the workspace of a directory, and wait until its worker is ready",
        takes=CreateWorkspace,
        gives=Workspace,
        codes=("client_retired", "conflict", "too_many_workspaces", "storage_failed", *_DESCRIBING),
    ),
    _by(
        "get_workspace",
        "GET",
        "/v1/workspaces/{id}",
        "One workspace with its configuration; wakes it",
        gives=Workspace,
        codes=_DESCRIBING,
    ),
    _by(
        "release_workspace",
        "DELETE",
        "/v1/workspaces/{id}",
        "The client's claim ends; runs go on",
        query=_CALLER,
        needs=_CALLER,
    ),
    _by(
        "set_current_session",
        "POST",
        "/v1/workspaces/{id}/current-session",
        "Which session a client looks at; it needs an open event stream",
        takes=CurrentSession,
        query=_CALLER,
        needs=_CALLER,
        codes=("not_attached",),
    ),
    _by(
        STREAM,
        "GET",
        "/v1/workspaces/{id}/events",
        "What happens in the workspace, as Server-Sent Events; it does not end by itself",
        gives=EVENT_STREAM,
        query={**_CALLER, "ids": "ids"},
        headers=("Last-Event-ID",),
        codes=("too_many_clients", "server_exiting"),
    ),
    _by(
        "restart_worker",
        "POST",
        "/v1/workspaces/{id}/restart",
        "Replace the worker; also the way out of `failed`",
        codes=WAKING,
    ),
    _by("evict_worker", "POST", "/v1/workspaces/{id}/evict", "Let an idle worker sleep now", codes=("busy", *WAKING)),
    _by(
        "remove_registration",
        "DELETE",
        "/v1/workspaces/{id}/registration",
        "Forget the workspace; its files stay",
        codes=("storage_failed", *WAKING),
    ),
    _to("config.get", "GET", "/config", "The merged configuration, secrets masked"),
    _to("config.providers", "GET", "/providers", "Providers and models to choose from"),
    # sessions, messages, files
    _to("session.list", "GET", "/sessions", "Top-level sessions, changed last first"),
    _to("session.create", "POST", "/sessions", "Begin a session; only the title is the client's"),
    _to("session.get", "GET", "/sessions/{sid}", "One session, children too"),
    _to("session.put", "PUT", "/sessions/{sid}", "Change title, cost or todos; what is left out stays"),
    _to(
        "session.delete",
        "DELETE",
        "/sessions/{sid}",
        "Cancel what runs in it, then delete it with its children and messages",
    ),
    _to("session.history", "GET", "/sessions/{sid}/history", "Versions of the files that the session changed"),
    _to("session.messages", "GET", "/sessions/{sid}/messages", "The conversation, oldest first"),
    _to("session.user_messages", "GET", "/sessions/{sid}/messages/user", "What the user said in it, newest first"),
    _to("workspace.user_messages", "GET", "/messages/user", "What the user said in any session, newest first"),
    _to(
        "filetracker.list",
        "GET",
        "/sessions/{sid}/filetracker/files",
        "Absolute paths that the session has read, the last first",
    ),
    _to("filetracker.read", "POST", "/filetracker/read", "The client shows a file to the session"),
    _to(
        "filetracker.last_read",
        "GET",
        "/filetracker/lastread",
        "When the session last read a file",
        query={"session_id": "session_id", "path": "path"},
    ),
    # the agent
    _to("agent.info", "GET", "/agent", "Which model answers, and whether anything runs"),
    _to("prompt.submit", "POST", "/agent", "Send a prompt: 202 once it is on disk"),
    _to("agent.init", "POST", "/agent/init", "Build the agent; the body may be left out"),
    _to("agent.update", "POST", "/agent/update", "Read the configuration again, for turns to come"),
    _to("agent.session", "GET", "/agent/sessions/{sid}", "A session in short: id, title, is it busy"),
    _to(
        "prompt.cancel",
        "POST",
        "/agent/sessions/{sid}/cancel",
        "Cancel what was accepted so far, or one run",
        query={"run_id": "run"},
    ),
    _to("prompt.count", "GET", "/agent/sessions/{sid}/prompts/queued", "How many prompts wait"),
    _to("prompt.list", "GET", "/agent/sessions/{sid}/prompts/list", "The texts of the prompts that wait"),
    _to("prompt.clear", "POST", "/agent/sessions/{sid}/prompts/clear", "Drop the prompts that wait"),
    _to(
        "agent.summarize", "POST", "/agent/sessions/{sid}/summarize", "Summarise a session; answered when that is over"
    ),
    _to(
        "agent.default_small_model",
        "GET",
        "/agent/default-small-model",
        "The model for side tasks of a provider",
        query={"provider_id": "provider_id"},
    ),
    _to(
        "run.list",
        "GET",
        "/runs",
        "What became of each prompt, newest first",
        query={"session_id": "session_id", "limit": "limit"},
    ),
    _to("run.get", "GET", "/runs/{run}", "What became of one prompt"),
    _to(
        "shell.run", "POST", "/agent/sessions/{sid}/shell", "Run a command of the user in the workspace", sends_env=True
    ),
    # permissions and questions
    _to("permissions.get_skip", "GET", "/permissions/skip", "Does the agent act without asking?"),
    _to("permissions.set_skip", "POST", "/permissions/skip", "Let the agent act without asking, or not"),
    _to("permissions.list", "GET", "/permissions", "Requests for permission that wait, the oldest first"),
    _to("permissions.grant", "POST", "/permissions/grant", "Answer a request for permission"),
    _to("questions.list", "GET", "/questions", "Questions of the agent that wait, the oldest first"),
    _to("questions.answer", "POST", "/questions/answer", "Answer the questions of the agent"),
    _to("questions.cancel", "POST", "/questions/cancel", "Refuse to answer them", query={"batch_request_id": "batch"}),
    # configuration and project
    _to("config.set", "POST", "/config/set", "Set a key to any JSON"),
    _to("config.remove", "POST", "/config/remove", "Remove a key"),
    _to("config.model", "POST", "/config/model", "Choose a model"),
    _to("config.compact", "POST", "/config/compact", "The compact view of a terminal"),
    _to("config.provider_key", "POST", "/config/provider-key", "Store a key or a login of a provider"),
    _to(
        "config.import_copilot",
        "POST",
        "/config/import-copilot",
        "Take over the login of another program; there is none",
    ),
    _to("config.refresh_oauth", "POST", "/config/refresh-oauth", "Renew a login; not possible, log in again"),
    _to("project.needs_init", "GET", "/project/needs-init", "Should a client offer to write the context file?"),
    _to("project.init", "POST", "/project/init", "Do not offer it again"),
    _to("project.init_prompt", "GET", "/project/init-prompt", "The prompt that writes the context file"),
    # language servers, skills, MCP servers
    _to("lsp.list", "GET", "/lsps", "Language servers by name"),
    _to("lsp.diagnostics", "GET", "/lsps/{lsp}/diagnostics", "What one language server says is wrong, by file"),
    _to("lsp.start", "POST", "/lsps/start", "Start the language servers of a file"),
    _to("lsp.stop", "POST", "/lsps/stop", "Stop all language servers"),
    _to("skill.list", "GET", "/skills", "Skills that can be used"),
    _to("skill.read", "POST", "/skills/read", "The text of a skill"),
    _to("mcp.states", "GET", "/mcp/states", "MCP servers by name"),
    _to("mcp.prompts", "GET", "/mcp/prompts", "Prompts that MCP servers offer"),
    _to("mcp.get_prompt", "POST", "/mcp/get-prompt", "The text of one of them"),
    _to("mcp.read_resource", "POST", "/mcp/read-resource", "Read a resource of an MCP server"),
    _to("mcp.refresh_tools", "POST", "/mcp/refresh-tools", "Ask an MCP server for its tools again"),
    _to("mcp.refresh_prompts", "POST", "/mcp/refresh-prompts", "Ask it for its prompts again"),
    _to("mcp.refresh_resources", "POST", "/mcp/refresh-resources", "Ask it for its resources again"),
    _to("mcp.pending_auth", "GET", "/mcp/pending-auth", "MCP servers that wait for a login"),
    _to("mcp.auth_url", "GET", "/mcp/auth-url", "Where a login goes on", query={"name": "name"}, needs=("name",)),
    _to("mcp.auth", "POST", "/mcp/auth", "Log in at an MCP server; answered when that is over"),
    _to("mcp.docker_enable", "POST", "/mcp/docker/enable", "Add Docker's MCP gateway to the configuration"),
    _to("mcp.docker_disable", "POST", "/mcp/docker/disable", "Take it out again"),
)


class MethodUnknown(BadInput):
    """The path exists, the method does not; `allowed` is what it takes."""

    default_code, default_status = "method_not_allowed", 405

    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(f"cannot {method} this: it takes {', '.join(allowed)}")
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Match:
    """The row for a request, and the words that its path has in the braces."""

    route: Route
    params: dict[str, str]


class RouteTable:
    """Finds the row for a request, one look-up for each word of the path."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        # A word that may be anything stands under None, which no word of a request can be.
        self._root: dict[str | None, Any] = {}
        for route in routes:
            node = self._root
            names = []
            for word in route.path.strip("/").split("/"):
                if word.startswith("{"):
                    names.append(word[1:-1])
                node = node.setdefault(None if word.startswith("{") else word, {})
            methods = node.setdefault("", {})  # no word of a path is empty
            assert route.method not in methods, route
            methods[route.method] = (route, names)

    def match(self, method: str, path: str) -> Match:
        """The row for `method` and the undecoded `path`. Raises NotFound, MethodUnknown, BadInput."""
        if not path.startswith("/"):
            raise _unknown(path)
        node = self._root
        values = []
        for word in path[1:].split("/"):
            if word and (below := node.get(word)) is not None:
                node = below
            elif word and (below := node.get(None)) is not None:
                # Decoded after splitting, so that an encoded slash stays inside its word (C12).
                values.append(_decoded(word))
                node = below
            else:
                raise _unknown(path)
        methods = node.get("")
        if methods is None:
            raise _unknown(path)
        found = methods.get(method)
        if found is None:
            raise MethodUnknown(method, sorted(methods))
        route, names = found
        return Match(route, dict(zip(names, values, strict=True)))


def _decoded(word: str) -> str:
    try:
        return unquote(word, errors="strict")
    except UnicodeDecodeError:
        raise BadInput("cannot read the path: it is not UTF-8 under its percent signs") from None


def _unknown(path: str) -> NotFound:
    return NotFound(f"there is nothing at {path[:200]!r}; the API lives under /v1/", code="route_unknown")
