"""Run one tool call: validate, hooks, run, result. Failures become error results; a cancel passes.

The tool itself asks for permission (`ToolContext.permit`), once it knows what it is about to do.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import msgspec

from protocol.api.message import ToolCallData
from protocol.base.logs import fields
from protocol.base.text import replace_surrogates, replace_surrogates_in
from protocol.errors import BulkheadError
from worker.toolkit.tool import CombinedHookDecision, Tool, ToolContext, ToolDenied, ToolError, ToolResult
from worker.toolkit.toolbox import Toolbox

log = logging.getLogger("bulkhead.tools")

END_MARGIN_S = 10.0  # a tool that keeps its own deadline can report more than this module can


async def invoke(toolbox: Toolbox, call: ToolCallData, context: ToolContext) -> ToolResult:
    """Run one call and return its result. Raises only CancelledError, and that only after the tool has cleaned up."""
    tool = toolbox.get(call.name)
    if tool is None:
        available = ", ".join(toolbox.names)
        return _failed(f"cannot run tool {call.name!r}: there is no such tool; available are: {available}")
    try:
        args = _arguments(call, tool)
    except ToolError as error:
        return _failed(str(error))
    context = replace(context, tool=tool.spec.name)
    started = context.clock.now()
    decision = await context.hooks.before(tool.spec.name, args, context)
    if decision.denied is not None:
        result = ToolResult(replace_surrogates(decision.denied), is_error=True, stop_turn=decision.halt)
    else:
        result = await _run(tool, decision.args, replace(context, approved=decision.approved))
    result = _with_hooks(result, decision)
    log.debug(
        "tool ran",
        extra=fields(
            tool=call.name,
            call=call.id,
            run=context.run_id,
            session=context.session_id,
            is_error=result.is_error,
            took_s=f"{context.clock.now() - started:.3f}",
        ),
    )
    return result


async def _run(tool: Tool, args: dict[str, object], context: ToolContext) -> ToolResult:
    limits = context.limits
    name = tool.spec.name
    try:
        async with asyncio.timeout(limits.tool_max_s + END_MARGIN_S) as deadline:
            without_deadline = partial(_suspended, deadline, limits.tool_max_s + END_MARGIN_S)
            result = await tool.run(args, replace(context, without_deadline=without_deadline))
        # Text from files and children may hold lone surrogates, which no JSON can carry.
        return ToolResult(
            replace_surrogates(result.content),
            result.is_error,
            replace_surrogates_in(dict(result.metadata)) if result.metadata is not None else None,
            result.data,
            result.mime_type,
            result.stop_turn,
        )
    except ToolDenied as error:
        return ToolResult(replace_surrogates(str(error)), is_error=True, stop_turn=True)
    except (ToolError, BulkheadError) as error:
        return _failed(str(error))
    except TimeoutError as error:
        if deadline.expired():
            return _failed(f"cannot finish {name}: it took longer than {limits.tool_max_s:g} s and was ended")
        return _failed(f"cannot finish {name}: {error}")
    except Exception as error:  # a bug in one tool must not end the run
        log.exception("tool failed", extra=fields(tool=name, run=context.run_id, session=context.session_id))
        return _failed(f"cannot finish {name}: {type(error).__name__}: {error}")


@contextlib.contextmanager
def _suspended(deadline: asyncio.Timeout, limit_s: float) -> Iterator[None]:
    """Suspend the deadline while the tool waits for a person or an agent; restart it in full afterwards."""
    deadline.reschedule(None)
    try:
        yield
    finally:
        if not deadline.expired():
            deadline.reschedule(asyncio.get_running_loop().time() + limit_s)


def _with_hooks(result: ToolResult, decision: CombinedHookDecision) -> ToolResult:
    if decision.note:
        result = replace(result, content=f"{result.content}\n\n{replace_surrogates(decision.note)}")
    if decision.metadata is not None:
        result = replace(result, metadata={**(result.metadata or {}), "hook": dict(decision.metadata)})
    return result


def _arguments(call: ToolCallData, tool: Tool) -> dict[str, object]:
    """Decode the arguments and check that all required ones are present. Raises ToolError."""
    try:
        args = msgspec.json.decode(call.input.strip() or "{}")
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ToolError(f"cannot run {call.name}: its input is not JSON: {error}") from error
    if not isinstance(args, dict):
        raise ToolError(f"cannot run {call.name}: its input must be a JSON object, not {type(args).__name__}")
    missing = [name for name in tool.spec.schema.get("required", []) if name not in args]
    if missing:
        raise ToolError(f"cannot run {call.name}: missing required parameter {', '.join(missing)}")
    return args


def _failed(text: str) -> ToolResult:
    return ToolResult(replace_surrogates(text), is_error=True)
