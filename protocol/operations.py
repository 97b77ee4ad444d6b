"""The operations that a worker offers: name, whether it is safe to repeat after a lost worker, its deadline.

`is_safe`: nothing changes, or the operation carries its own key, so the supervisor may send it again to the next
worker. `is_bound`: the operation ends when its caller goes away. Arguments come in `Call.args` (strings from path
and query) and `Call.body` (JSON); answers are JSON bodies of protocol/shapes.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table."""

    name: str
    is_safe: bool
    within_s: float | None = None  # None: the limit `call_deadline_s`
    is_bound: bool = False


_ROWS = (
    # workspace
    Operation("workspace.describe", is_safe=True),  # -> shapes.workspace.Description
    Operation("events.since", is_safe=True),  # args number, count -> msgpack list[Event]; 409 `reset` when too old
    # sessions
    Operation("session.list", is_safe=True),
    Operation("session.create", is_safe=False),
    Operation("session.get", is_safe=True),  # args sid
    Operation("session.put", is_safe=True),
    Operation("session.delete", is_safe=True),
    Operation("session.history", is_safe=True),
    Operation("session.messages", is_safe=True),
    Operation("session.user_messages", is_safe=True),
    Operation("workspace.user_messages", is_safe=True),
    Operation("filetracker.list", is_safe=True),
    Operation("filetracker.read", is_safe=True),
    Operation("filetracker.last_read", is_safe=True),
    # prompts and runs
    Operation("prompt.submit", is_safe=False),  # safe when the body has a run id; the front end decides
    Operation("prompt.cancel", is_safe=True),  # args sid; optional run: only that run
    Operation("prompt.clear", is_safe=True),
    Operation("prompt.count", is_safe=True),
    Operation("prompt.list", is_safe=True),
    Operation("run.list", is_safe=True),
    Operation("run.get", is_safe=True),  # args run
    # agent
    Operation("agent.info", is_safe=True),
    Operation("agent.init", is_safe=True),
    Operation("agent.update", is_safe=True),
    Operation("agent.session", is_safe=True),
    Operation("agent.default_small_model", is_safe=True),
    Operation("agent.summarize", is_safe=False, within_s=3600.0, is_bound=True),  # args sid; answers when it is done
    # permissions and questions
    Operation("permissions.get_skip", is_safe=True),
    Operation("permissions.set_skip", is_safe=True),
    Operation("permissions.grant", is_safe=True),
    Operation("questions.answer", is_safe=True),
    Operation("questions.cancel", is_safe=True),
    # configuration: a change made twice is the same change
    Operation("config.get", is_safe=True),
    Operation("config.providers", is_safe=True),
    Operation("config.set", is_safe=True),
    Operation("config.remove", is_safe=True),
    Operation("config.model", is_safe=True),
    Operation("config.compact", is_safe=True),
    Operation("config.provider_key", is_safe=True),
    Operation("config.reload", is_safe=True),  # another workspace changed the files of the user
    Operation("config.import_copilot", is_safe=True),
    Operation("config.refresh_oauth", is_safe=True),
    # project
    Operation("project.needs_init", is_safe=True),
    Operation("project.init", is_safe=True),
    Operation("project.init_prompt", is_safe=True),
    # a command of the user; args sid, env (JSON list of KEY=VALUE)
    Operation("shell.run", is_safe=False, within_s=660.0, is_bound=True),
    # language servers, skills, MCP servers
    Operation("lsp.list", is_safe=True),
    Operation("lsp.diagnostics", is_safe=True),  # args lsp
    Operation("lsp.start", is_safe=True),
    Operation("lsp.stop", is_safe=True),
    Operation("skill.list", is_safe=True),
    Operation("skill.read", is_safe=True),
    Operation("mcp.states", is_safe=True),
    Operation("mcp.prompts", is_safe=True),
    Operation("mcp.get_prompt", is_safe=True),
    Operation("mcp.read_resource", is_safe=True),
    Operation("mcp.refresh_tools", is_safe=True),
    Operation("mcp.refresh_prompts", is_safe=True),
    Operation("mcp.refresh_resources", is_safe=True),
    Operation("mcp.pending_auth", is_safe=True),
    Operation("mcp.auth_url", is_safe=True),  # args name
    Operation("mcp.auth", is_safe=False, is_bound=True),
    Operation("mcp.docker_enable", is_safe=True),
    Operation("mcp.docker_disable", is_safe=True),
)

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
