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
    # permissions
    Operation("permissions.get_skip", is_safe=True),
    Operation("permissions.set_skip", is_safe=True),
    # configuration
    Operation("config.get", is_safe=True),
    Operation("config.providers", is_safe=True),
)

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
