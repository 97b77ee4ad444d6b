"""The tool `todos`: replace the list of tasks of a session as a whole."""

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from protocol.api.session import Todo
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of

STATUSES = ("completed", "in_progress", "pending")
TASKS_MAX = 200
TEXT_MAX = 1000


class TodoArgs(msgspec.Struct, frozen=True, kw_only=True):
    """One task."""

    content: Annotated[str, Meta(description="What is to be done, as an order")]
    status: Annotated[str, Meta(description="How far it is", extra_json_schema={"enum": [*STATUSES]})]
    active_form: Annotated[str, Meta(description="What is being done while it is in progress")]


class TodosArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `todos`."""

    todos: Annotated[list[TodoArgs], Meta(description="The whole new list")]


class TodoStore(Protocol):
    """Stores the lists."""

    async def replace(self, session_id: str, todos: Sequence[Todo]) -> list[Todo]:
        """Store the new list and return the old one. Raises BulkheadError."""
        ...


class Todos:
    """Replaces the list and reports what has changed."""

    spec = ToolSpec("todos", description_of(__file__, "todos"), schema_of(TodosArgs), parallel=False, effect="read")

    def __init__(self, store: TodoStore) -> None:
        self._store = store

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `todos.md`."""
        tasks = read_args(TodosArgs, args).todos
        for task in tasks:
            if task.status not in STATUSES:
                raise ToolError(
                    f"cannot keep a task with the status {task.status[:40]!r}: it must be one of {', '.join(STATUSES)}"
                )
        todos = [msgspec.convert(task, Todo, from_attributes=True) for task in tasks]
        if len(todos) > TASKS_MAX:
            raise ToolError(f"cannot keep {len(todos)} tasks: {TASKS_MAX} is the most; join some")
        for todo in todos:
            if not todo.content.strip() or len(todo.content) > TEXT_MAX or len(todo.active_form) > TEXT_MAX:
                raise ToolError(f"cannot keep a task: its content must have 1 to {TEXT_MAX} characters")
        before = await self._store.replace(context.session_id, todos)
        return ToolResult(_summary(todos), metadata=_changes(before, todos))


def _summary(todos: Sequence[Todo]) -> str:
    counts = {status: sum(todo.status == status for todo in todos) for status in STATUSES}
    text = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())
    return f"The list has {len(todos)} tasks: {text}." if todos else "The list is empty."


def _changes(before: Sequence[Todo], now: Sequence[Todo]) -> dict[str, object]:
    """Return what clients show: the list, and the tasks that this call completed or started."""
    previous = {todo.content: todo.status for todo in before}
    started = [todo for todo in now if todo.status == "in_progress" and previous.get(todo.content) != "in_progress"]
    return {
        "is_new": not before,
        "todos": msgspec.to_builtins(list(now)),
        "just_completed": [
            todo.content
            for todo in now
            if todo.status == "completed" and previous.get(todo.content, "completed") != "completed"
        ],
        "just_started": started[0].active_form or started[0].content if started else "",
        "completed": sum(todo.status == "completed" for todo in now),
        "total": len(now),
    }
