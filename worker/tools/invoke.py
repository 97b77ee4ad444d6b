"""The one way into a tool: validate, permission, run, result. Failures become error results; a cancel passes."""

import asyncio
import logging
from collections.abc import Mapping

import msgspec

from protocol.base.logs import fields
from protocol.errors import BulkheadError
from protocol.shapes.message import ToolCallData
from worker.tools.tool import Tool, ToolContext, ToolError, ToolResult
from worker.tools.toolbox import Toolbox

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
    decision = context.rules.decide(tool.spec.name, tool.spec.effect)
    if not decision.allowed:
        # A denial ends the turn: the model must not look for a way around it.
        return ToolResult(_clean(decision.reason), is_error=True, stop_turn=True)
    started = context.clock.now()
    result = await _run(tool, args, context)
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
            result = await tool.run(args, context)
        # Text from files and children may hold halves of characters, which no JSON can carry.
        return ToolResult(
            _clean(result.content),
            result.is_error,
            _clean_values(result.metadata),
            result.data,
            result.mime_type,
            result.stop_turn,
        )
    except (ToolError, BulkheadError) as error:
        return _failed(str(error))
    except TimeoutError as error:
        if deadline.expired():
            return _failed(f"cannot finish {name}: it took longer than {limits.tool_max_s:g} s and was ended")
        return _failed(f"cannot finish {name}: {error}")
    except Exception as error:  # the border of tools: a bug in one must not end the run
        log.exception("tool failed", extra=fields(tool=name, run=context.run_id, session=context.session_id))
        return _failed(f"cannot finish {name}: {type(error).__name__}: {error}")


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
    return ToolResult(_clean(text), is_error=True)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _clean_values(metadata: Mapping[str, object] | None) -> dict[str, object] | None:
    if metadata is None:
        return None
    return {key: _clean(value) if isinstance(value, str) else value for key, value in metadata.items()}
