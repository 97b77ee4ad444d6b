"""The API as one table: method, path, who answers, which query words are passed on. Most rows need no code.

A row names either a worker's operation or a handler of the door. Path words in braces and the query words listed
become the arguments of the operation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from protocol.errors import BadInput, NotFound


@dataclass(frozen=True, slots=True)
class Route:
    """One row. Exactly one of `operation` and `handler` is set."""

    method: str
    path: str
    operation: str = ""
    handler: str = ""
    query: Mapping[str, str] = field(default_factory=dict)  # query word -> argument of the operation
    is_use: bool = True  # does this request mean that somebody needs the server (--idle-exit)?
    sends_env: bool = False  # does the operation get the environment of the workspace's first client, as `env`?


def _to(operation: str, method: str, below: str, **query: str) -> Route:
    return Route(method, f"/v1/workspaces/{{id}}{below}", operation=operation, query=query)


def _by(handler: str, method: str, path: str, is_use: bool = True) -> Route:
    return Route(method, path, handler=handler, is_use=is_use)


STREAM = "stream_events"
"""The handler whose answer does not end by itself."""

ROUTES: tuple[Route, ...] = (
    # the server
    _by("health", "GET", "/v1/health", is_use=False),
    _by("version", "GET", "/v1/version", is_use=False),
    _by("server_config", "GET", "/v1/config", is_use=False),
    _by("control", "POST", "/v1/control", is_use=False),
    _by("retire_client", "DELETE", "/v1/clients/{client_id}"),
    _by("list_workers", "GET", "/v1/workers", is_use=False),
    # workspaces
    _by("list_workspaces", "GET", "/v1/workspaces"),
    _by("create_workspace", "POST", "/v1/workspaces"),
    _by("get_workspace", "GET", "/v1/workspaces/{id}"),
    _by("release_workspace", "DELETE", "/v1/workspaces/{id}"),
    _by("set_current_session", "POST", "/v1/workspaces/{id}/current-session"),
    _by(STREAM, "GET", "/v1/workspaces/{id}/events"),
    _by("restart_worker", "POST", "/v1/workspaces/{id}/restart"),
    _by("evict_worker", "POST", "/v1/workspaces/{id}/evict"),
    _by("remove_registration", "DELETE", "/v1/workspaces/{id}/registration"),
    _to("config.get", "GET", "/config"),
    _to("config.providers", "GET", "/providers"),
    # sessions, messages, files
    _to("session.list", "GET", "/sessions"),
    _to("session.create", "POST", "/sessions"),
    _to("session.get", "GET", "/sessions/{sid}"),
    _to("session.put", "PUT", "/sessions/{sid}"),
    _to("session.delete", "DELETE", "/sessions/{sid}"),
    _to("session.history", "GET", "/sessions/{sid}/history"),
    _to("session.messages", "GET", "/sessions/{sid}/messages"),
    _to("session.user_messages", "GET", "/sessions/{sid}/messages/user"),
    _to("workspace.user_messages", "GET", "/messages/user"),
    _to("filetracker.list", "GET", "/sessions/{sid}/filetracker/files"),
    _to("filetracker.read", "POST", "/filetracker/read"),
    _to("filetracker.last_read", "GET", "/filetracker/lastread", session_id="session_id", path="path"),
    # the agent
    _to("agent.info", "GET", "/agent"),
    _to("prompt.submit", "POST", "/agent"),
    _to("agent.init", "POST", "/agent/init"),
    _to("agent.update", "POST", "/agent/update"),
    _to("agent.session", "GET", "/agent/sessions/{sid}"),
    _to("prompt.cancel", "POST", "/agent/sessions/{sid}/cancel", run_id="run"),
    _to("prompt.count", "GET", "/agent/sessions/{sid}/prompts/queued"),
    _to("prompt.list", "GET", "/agent/sessions/{sid}/prompts/list"),
    _to("prompt.clear", "POST", "/agent/sessions/{sid}/prompts/clear"),
    _to("agent.summarize", "POST", "/agent/sessions/{sid}/summarize"),
    _to("agent.default_small_model", "GET", "/agent/default-small-model", provider_id="provider_id"),
    _to("run.list", "GET", "/runs", session_id="session_id", limit="limit"),
    _to("run.get", "GET", "/runs/{run}"),
    Route("POST", "/v1/workspaces/{id}/agent/sessions/{sid}/shell", operation="shell.run", sends_env=True),
    # permissions and questions
    _to("permissions.get_skip", "GET", "/permissions/skip"),
    _to("permissions.set_skip", "POST", "/permissions/skip"),
    _to("permissions.grant", "POST", "/permissions/grant"),
    _to("questions.answer", "POST", "/questions/answer"),
    _to("questions.cancel", "POST", "/questions/cancel"),
    # configuration and project
    _to("config.set", "POST", "/config/set"),
    _to("config.remove", "POST", "/config/remove"),
    _to("config.model", "POST", "/config/model"),
    _to("config.compact", "POST", "/config/compact"),
    _to("config.provider_key", "POST", "/config/provider-key"),
    _to("config.import_copilot", "POST", "/config/import-copilot"),
    _to("config.refresh_oauth", "POST", "/config/refresh-oauth"),
    _to("project.needs_init", "GET", "/project/needs-init"),
    _to("project.init", "POST", "/project/init"),
    _to("project.init_prompt", "GET", "/project/init-prompt"),
    # language servers, skills, MCP servers
    _to("lsp.list", "GET", "/lsps"),
    _to("lsp.diagnostics", "GET", "/lsps/{lsp}/diagnostics"),
    _to("lsp.start", "POST", "/lsps/start"),
    _to("lsp.stop", "POST", "/lsps/stop"),
    _to("skill.list", "GET", "/skills"),
    _to("skill.read", "POST", "/skills/read"),
    _to("mcp.states", "GET", "/mcp/states"),
    _to("mcp.prompts", "GET", "/mcp/prompts"),
    _to("mcp.get_prompt", "POST", "/mcp/get-prompt"),
    _to("mcp.read_resource", "POST", "/mcp/read-resource"),
    _to("mcp.refresh_tools", "POST", "/mcp/refresh-tools"),
    _to("mcp.refresh_prompts", "POST", "/mcp/refresh-prompts"),
    _to("mcp.refresh_resources", "POST", "/mcp/refresh-resources"),
    _to("mcp.pending_auth", "GET", "/mcp/pending-auth"),
    _to("mcp.auth_url", "GET", "/mcp/auth-url", name="name"),
    _to("mcp.auth", "POST", "/mcp/auth"),
    _to("mcp.docker_enable", "POST", "/mcp/docker/enable"),
    _to("mcp.docker_disable", "POST", "/mcp/docker/disable"),
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
        self._root: dict[str, Any] = {}
        for route in routes:
            node = self._root
            names = []
            for word in route.path.strip("/").split("/"):
                if word.startswith("{"):
                    names.append(word[1:-1])
                    word = "{}"
                node = node.setdefault(word, {})
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
            elif word and (below := node.get("{}")) is not None:
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
