"""The configured hooks: programs of the user that look at each tool call before it runs (10.4).

All that match run side by side, each a child of its own with a deadline; they see the call as JSON on their input.
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
from worker.config.load import Config
from worker.config.sections import HookSettings
from worker.hooks.results import Answer, Heard, answer_of, together
from worker.processes.child import Children
from worker.processes.environment import FORCED, user_environment
from worker.toolkit.extension import Service
from worker.toolkit.tool import HookVerdict, ToolContext

EVENT = "PreToolUse"
ANSWER_MAX_BYTES = 1024 * 1024
"""A hook may hand back the whole content of a file."""
VARIABLE_MAX_BYTES = 100_000
"""The kernel takes no longer variables than 128 KiB, and starts nothing that has one; all is on the hook's input."""
_EVENT_NAMES = frozenset({"pretooluse"})


@dataclass(frozen=True)
class Hook:
    """One configured hook. `timeout_s` bounds its run."""

    name: str
    matcher: str
    command: str
    timeout_s: float

    def matches(self, tool: str) -> bool:
        """Is it about this tool? An empty matcher is about all."""
        return not self.matcher or re.search(self.matcher, tool) is not None


class HookService(Service):
    """Implements `Hooks` for the tools."""

    def __init__(self, children: Children, limits: Limits, log: logging.Logger) -> None:
        self._children = children
        self._limits = limits
        self._log = log
        self._hooks: tuple[Hook, ...] = ()

    def configure(self, config: Config, env: Mapping[str, str]) -> None:
        """Take the hooks of this configuration."""
        self._hooks = hooks_of(config.hooks, self._limits)

    async def before(self, tool: str, args: dict[str, object], context: ToolContext) -> HookVerdict:
        """Ask all that match; one whose command stands twice is asked once."""
        by_command: dict[str, Hook] = {}
        for hook in self._hooks:
            if hook.matches(tool):
                by_command.setdefault(hook.command, hook)
        hooks = list(by_command.values())
        if not hooks:
            return HookVerdict(args)
        owner = TaskOwner("hooks", self._log)
        try:
            tasks = [owner.start(self._ask(hook, tool, args, context), hook.name) for hook in hooks]
            await asyncio.wait(tasks)  # each has its own deadline
            heard = [Heard(hook.name, hook.matcher, task.result()) for hook, task in zip(hooks, tasks, strict=True)]
        finally:
            await owner.close(self._limits.kill_deadline_s)
        return _verdict(heard, args)

    async def _ask(self, hook: Hook, tool: str, args: dict[str, object], context: ToolContext) -> Answer:
        shell = shutil.which("bash", path=context.env.get("PATH")) or "/bin/sh"
        about = {
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
            return Answer()
        try:
            with contextlib.suppress(OSError):  # one that reads nothing may be gone already
                child.write(json.dumps(about).encode())
            child.finish_stdin()  # not closed: a long call would be cut, and a hook that cannot read it says nothing
            code = await child.exited_within(hook.timeout_s)
            if code is not None:
                await child.drained(self._limits.tool_pipe_grace_s)
        finally:
            await child.end()
        answer = answer_of(code, child.stdout.text(), child.stderr.text())
        self._log.debug("hook ran", extra=fields(hook=hook.name, tool=tool, code=code, decision=answer.decision))
        return answer


def hooks_of(settings: Mapping[str, Sequence[HookSettings]], limits: Limits) -> tuple[Hook, ...]:
    """The hooks of the one event there is; its name counts in any case and with or without underscores."""
    return tuple(
        Hook(
            name=one.name or one.command[:80],
            matcher=one.matcher,
            command=one.command,
            timeout_s=float(one.timeout) if one.timeout > 0 else limits.hook_s,
        )
        for event, found in settings.items()
        if event.replace("_", "").lower() in _EVENT_NAMES
        for one in found
    )


def _environment(tool: str, args: Mapping[str, object], context: ToolContext) -> dict[str, str]:
    env = {**user_environment(context.env), **FORCED}
    about = {"EVENT": EVENT, "TOOL_NAME": tool, "SESSION_ID": context.session_id}
    about |= {"CWD": str(context.workspace), "PROJECT_DIR": str(context.workspace)}
    for name in ("command", "file_path"):
        value = args.get(name)
        if isinstance(value, str) and "\0" not in value and len(value.encode(errors="replace")) < VARIABLE_MAX_BYTES:
            about[f"TOOL_INPUT_{name.upper()}"] = value
    for prefix in ("BULKHEAD", "CRUSH"):
        env |= {f"{prefix}_{name}": value for name, value in about.items()}
    return env


def _verdict(heard: Sequence[Heard], args: dict[str, object]) -> HookVerdict:
    answer = together(heard)
    denied = None
    if answer.decision == "deny":
        denied = answer.reason or "a hook of the user refused this call"
    return HookVerdict(
        args={**args, **answer.patch},
        denied=denied,
        halt=answer.halt,
        approved=answer.decision == "allow",
        note=answer.note,
        metadata={
            "hook_count": len(heard),
            "decision": answer.shown_decision,
            "halt": answer.halt,
            "reason": answer.reason,
            "input_rewrite": bool(answer.patch),
            "hooks": [one.shown() for one in heard],
        },
    )
