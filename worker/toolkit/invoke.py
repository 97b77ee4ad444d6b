"""The one way into a tool: validate, hooks, run, result. Failures become error results; a cancel passes.

What a call is allowed to do is asked by the tool itself, when it knows what it is about to do (`ToolContext.permit`).
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
from worker.toolkit.tool import HookVerdict, Tool, ToolContext, ToolDenied, ToolError, ToolResult
from worker.toolkit.toolbox import Toolbox

log = logging.getLogger("bulkhead.tools")

END_MARGIN_S = 10.0  # a tool with a deadline of its own tells more when it keeps it itself


async def invoke(toolbox: Toolbox, call: ToolCallData, context: ToolContext) -> ToolResult:
    """Run one call and return its result; never raises but for a cancel, and then only after the tool has tidied up."""
    tool = toolbox.get(call.name)
    if tool is None:
        known = ", ".join(toolbox.names)
        return _failed(f"cannot run tool {call.name!r}: there is no such tool; available are: {known}")
    try:
        args = _arguments(call, tool)
    except ToolError as error:
        return _failed(str(error))
    context = replace(context, tool=tool.spec.name)
    started = context.clock.now()
    verdict = await context.hooks.before(tool.spec.name, args, context)
    if verdict.denied is not None:
        result = ToolResult(replace_surrogates(verdict.denied), is_error=True, stop_turn=verdict.halt)
    else:
        result = await _run(tool, verdict.args, replace(context, approved=verdict.approved))
    result = _with_verdict(result, verdict)
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
            waits = partial(_without, deadline, limits.tool_max_s + END_MARGIN_S)
            result = await tool.run(args, replace(context, without_deadline=waits))
        # Text from files and children may hold halves of characters, which no JSON can carry.
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
    except Exception as error:  # the border of tools: a bug in one must not end the run
        log.exception("tool failed", extra=fields(tool=name, run=context.run_id, session=context.session_id))
        return _failed(f"cannot finish {name}: {type(error).__name__}: {error}")


@contextlib.contextmanager
def _without(deadline: asyncio.Timeout, limit_s: float) -> Iterator[None]:
    """Hold the deadline while the tool waits for somebody; it has its whole time again afterwards."""
    deadline.reschedule(None)
    try:
        yield
    finally:
        if not deadline.expired():
            deadline.reschedule(asyncio.get_running_loop().time() + limit_s)


def _with_verdict(result: ToolResult, verdict: HookVerdict) -> ToolResult:
    if verdict.note:
        result = replace(result, content=f"{result.content}\n\n{replace_surrogates(verdict.note)}")
    if verdict.metadata is not None:
        result = replace(result, metadata={**(result.metadata or {}), "hook": dict(verdict.metadata)})
    return result


def _arguments(call: ToolCallData, tool: Tool) -> dict[str, object]:
    """The arguments as an object with all that is required. Raises ToolError."""
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
