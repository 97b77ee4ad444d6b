"""Run the configured hooks: programs of the user that check each tool call before it runs.

All matching hooks run at the same time, each in its own child process with a timeout. They get the call as JSON on
standard input.
"""

import asyncio
import contextlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.limits import Limits
from worker.config.load import WorkspaceConfig
from worker.config.sections import HookSettings
from worker.hooks.results import HookAnswer, HookOutput, answer_of, combine
from worker.processes.child import ChildProcesses
from worker.processes.environment import FORCED, user_environment
from worker.toolkit.extension import Extension
from worker.toolkit.tool import CombinedHookDecision, ToolContext

EVENT = "PreToolUse"
ANSWER_MAX_BYTES = 1024 * 1024
"""Of standard output: a hook may return the whole content of a file."""
VARIABLE_MAX_BYTES = 100_000
"""The kernel starts no program with a variable longer than 128 KiB; the hook's input contains everything."""
_EVENT_NAMES = frozenset({"pretooluse"})


@dataclass(frozen=True)
class Hook:
    """One configured hook. After `timeout_s` seconds it is killed."""

    name: str
    matcher: str
    command: str
    timeout_s: float

    def matches(self, tool: str) -> bool:
        """Return whether it applies to this tool; an empty matcher applies to all."""
        return not self.matcher or re.search(self.matcher, tool) is not None


class HookService(Extension):
    """Implement `Hooks` with the programs of the configuration."""

    def __init__(self, children: ChildProcesses, limits: Limits, log: logging.Logger) -> None:
        self._children = children
        self._limits = limits
        self._log = log
        self._hooks: tuple[Hook, ...] = ()

    def configure(self, config: WorkspaceConfig, env: Mapping[str, str]) -> None:
        """Apply the hooks of this configuration."""
        self._hooks = hooks_of(config.hooks, self._limits)

    async def before(self, tool: str, args: dict[str, object], context: ToolContext) -> CombinedHookDecision:
        """Run all matching hooks; one whose command is configured twice runs once."""
        by_command: dict[str, Hook] = {}
        for hook in self._hooks:
            if hook.matches(tool):
                by_command.setdefault(hook.command, hook)
        hooks = list(by_command.values())
        if not hooks:
            return CombinedHookDecision(args)
        owner = TaskOwner("hooks", self._log)
        try:
            tasks = [owner.start(self._ask(hook, tool, args, context), hook.name) for hook in hooks]
            await asyncio.wait(tasks)  # each has its own timeout
            outputs = [
                HookOutput(hook.name, hook.matcher, task.result()) for hook, task in zip(hooks, tasks, strict=True)
            ]
        finally:
            await owner.close(self._limits.kill_deadline_s)
        return _combined_decision(outputs, args)

    async def _ask(self, hook: Hook, tool: str, args: dict[str, object], context: ToolContext) -> HookAnswer:
        shell = shutil.which("bash", path=context.env.get("PATH")) or "/bin/sh"
        details = {
            "event": EVENT,
            "hook_event_name": EVENT,
            "session_id": context.session_id,
            "cwd": str(context.workspace),
            "tool_name": tool,
            "tool_input": args,
        }
        try:
            child = await self._children.start(
                [shell, "-c", hook.command],
                env=_environment(tool, args, context),
                cwd=context.workspace,
                head_bytes=ANSWER_MAX_BYTES,
                tail_bytes=0,
                stdin=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in the command
            self._log.warning("hook does not start", extra=fields(hook=hook.name, error=error))
            return HookAnswer()
        try:
            with contextlib.suppress(OSError):  # one that reads nothing may have exited
                child.write(json.dumps(details).encode())
            child.finish_stdin()  # not closed: a long call would be cut, and a hook that cannot read it decides nothing
            code = await child.exited_within(hook.timeout_s)
            if code is not None:
                await child.drained(self._limits.tool_pipe_grace_s)
        finally:
            await child.end()
        answer = answer_of(code, child.stdout.text(), child.stderr.text())
        self._log.debug("hook ran", extra=fields(hook=hook.name, tool=tool, code=code, decision=answer.decision))
        return answer


def hooks_of(settings: Mapping[str, Sequence[HookSettings]], limits: Limits) -> tuple[Hook, ...]:
    """Return the hooks for the only event, whose name may have any case and underscores."""
    return tuple(
        Hook(
            name=one.name or one.command[:80],
            matcher=one.matcher,
            command=one.command,
            timeout_s=float(one.timeout) if one.timeout > 0 else limits.hook_s,
        )
        for event, hooks in settings.items()
        if event.replace("_", "").lower() in _EVENT_NAMES
        for one in hooks
    )


def _environment(tool: str, args: Mapping[str, object], context: ToolContext) -> dict[str, str]:
    env = {**user_environment(context.env), **FORCED}
    details = {"EVENT": EVENT, "TOOL_NAME": tool, "SESSION_ID": context.session_id}
    details |= {"CWD": str(context.workspace), "PROJECT_DIR": str(context.workspace)}
    for name in ("command", "file_path"):
        value = args.get(name)
        if isinstance(value, str) and "\0" not in value and len(value.encode(errors="replace")) < VARIABLE_MAX_BYTES:
            details[f"TOOL_INPUT_{name.upper()}"] = value
    for prefix in ("BULKHEAD", "CRUSH"):
        env |= {f"{prefix}_{name}": value for name, value in details.items()}
    return env


def _combined_decision(outputs: Sequence[HookOutput], args: dict[str, object]) -> CombinedHookDecision:
    answer = combine(outputs)
    denied = None
    if answer.decision == "deny":
        denied = answer.reason or "a hook of the user denied this call"
    return CombinedHookDecision(
        args={**args, **answer.patch},
        denied=denied,
        halt=answer.halt,
        approved=answer.decision == "allow",
        note=answer.note,
        metadata={
            "hook_count": len(outputs),
            "decision": answer.shown_decision,
            "halt": answer.halt,
            "reason": answer.reason,
            "input_rewrite": bool(answer.patch),
            "hooks": [output.as_metadata() for output in outputs],
        },
    )
