"""Provide the scripted model `builtin/script`: it needs no key and no network, and follows directives of the prompt.

Each directive is a line of the newest prompt: `/say TEXT`, `/tokens N [RATE_PER_S]`, `/think TEXT`,
`/tool NAME {json}`, `/fail STATUS [TIMES]`, `/hang`, `/cut`, `/finish REASON`. Adjacent `/tool` lines are the
calls of one step; the lines after them are the next step. Other lines are ignored if there is any directive.
`/stamp N [RATE_PER_S]` is `/tokens` whose tokens are the monotonic time of their creation, for measuring delays.

Time passes only in the `sleep` function that the model is given.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from protocol.api.message import FinishReason, Message, TextPart
from protocol.base.clock import Clock
from protocol.limits import Limits
from worker.config.catalogue import BUILTIN_ID, SCRIPT_MODEL
from worker.models.client import (
    Finished,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    Tokens,
    ToolCallEnd,
    ToolCallStart,
)
from worker.models.failures import category_of_status, failure

GREETING = (
    "This is Bulkhead's scripted model: it needs no key and no network, and it does not think. "
    "To talk to a real one, set ANTHROPIC_API_KEY, OPENAI_API_KEY or OPENROUTER_API_KEY, or name a provider in "
    "bulkhead.json. To see this one work, send a line such as `/tokens 50 20` or `/say hello`."
)
AFTER_TOOLS = "Done."
TOKENS_MAX = 1_000_000
BREATH_TOKENS = 8  # at full speed, yield to the event loop after this many tokens

Sleeper = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Emit:
    count: int
    rate: float  # tokens a second, 0 for full speed
    stamped: bool = False  # each token is the time of its creation


@dataclass(frozen=True, slots=True)
class Think:
    text: str


@dataclass(frozen=True, slots=True)
class CallTool:
    name: str
    input: str


@dataclass(frozen=True, slots=True)
class Fail:
    status: int
    times: int  # 0 for ever


@dataclass(frozen=True, slots=True)
class Hang:
    pass


@dataclass(frozen=True, slots=True)
class Cut:
    pass


@dataclass(frozen=True, slots=True)
class Finish:
    reason: FinishReason


Action = Say | Emit | Think | CallTool | Fail | Hang | Cut | Finish
Step = tuple[Action, ...]

_DIRECTIVE = re.compile(r"\s*/(say|tokens|stamp|think|tool|fail|hang|cut|finish)(?:[ \t]+(.*?))?[ \t\r]*\Z", re.DOTALL)
_REASONS = frozenset(get_args(FinishReason))


def parse(prompt: str) -> list[Step]:
    """Return the steps of a prompt; never empty. A directive that cannot be parsed becomes text that says so."""
    actions = [action for line in prompt.split("\n") if (action := _action(line)) is not None]
    if not actions:
        return [(Say(GREETING),)]
    steps: list[Step] = []
    step: list[Action] = []
    for action in actions:
        if step and isinstance(step[-1], CallTool) and not isinstance(action, CallTool | Finish):
            steps.append(tuple(step))
            step = []
        step.append(action)
    steps.append(tuple(step))
    if isinstance(steps[-1][-1], CallTool):
        steps.append((Say(AFTER_TOOLS),))
    return steps


def _action(line: str) -> Action | None:
    match = _DIRECTIVE.match(line)
    if match is None:
        return None
    word, rest = match[1], (match[2] or "").strip()
    values = rest.split()
    match word, values:
        case "say", _:
            return Say(rest)
        case "think", _:
            return Think(rest)
        case "hang", []:
            return Hang()
        case "cut", []:
            return Cut()
        case "tool", [name, *_]:
            return CallTool(name, rest[len(name) :].strip() or "{}")
        case "tokens" | "stamp", [count, *rate] if _is_number(count) and len(rate) <= 1 and all(map(_is_number, rate)):
            return Emit(min(int(float(count)), TOKENS_MAX), float(rate[0]) if rate else 0.0, word == "stamp")
        case "fail", [status, *times] if status.isdecimal() and len(times) <= 1 and all(map(str.isdecimal, times)):
            return Fail(int(status), int(times[0]) if times else 0)
        case "finish", [reason] if reason in _REASONS:
            return Finish(reason)  # type: ignore[arg-type]  # checked against the literal's own values
        case _:
            return Say(f"(cannot read the directive `{line.strip()}`)")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) is not None


def newest_prompt(messages: Sequence[Message]) -> tuple[Message | None, int]:
    """Return the last user message, and the number of steps done since: the assistant messages after it."""
    steps = 0
    for message in reversed(messages):
        if message.role == "user":
            return message, steps
        steps += message.role == "assistant"
    return None, steps


class ScriptModel:
    """Plays the script of the newest prompt. The object remembers its failures, for the TIMES of `/fail`."""

    model = SCRIPT_MODEL
    provider_id = BUILTIN_ID
    is_flat_rate = True

    def __init__(self, *, sleep: Sleeper, clock: Clock, limits: Limits) -> None:
        self._sleep = sleep
        self._clock = clock
        self._limits = limits
        self._failed: dict[tuple[str, int, int], int] = {}

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Play the step after those in the history."""
        prompt, done = newest_prompt(request.messages)
        text = "\n".join(part.data.text for part in prompt.parts if isinstance(part, TextPart)) if prompt else ""
        key = prompt.id if prompt else ""
        steps = parse(text)
        step: Step = steps[done] if done < len(steps) else (Say(AFTER_TOOLS),)
        reason: FinishReason = "end_turn"
        written, calls, texts = 0, 0, 0
        for position, action in enumerate(step):
            match action:
                case Say(words):
                    written += len(words.split())
                    yield TextDelta(("\n" if texts else "") + words)
                    texts += 1
                case Emit(count, rate, stamped):
                    if texts:
                        yield TextDelta("\n")
                    start = self._clock.now()
                    for index in range(count):
                        if rate > 0:  # each token is timed from the start, so that delays do not add up
                            await self._sleep(max(0.0, start + index / rate - self._clock.now()))
                        elif index % BREATH_TOKENS == BREATH_TOKENS - 1:
                            await self._sleep(0)
                        token = f"{self._clock.now():.6f}" if stamped else f"t{index + 1}"
                        yield TextDelta(f" {token}" if index else token)
                    written += count
                    texts += 1
                case Think(thought):
                    yield ThinkingDelta(thought)
                    yield ThinkingEnd(provider=BUILTIN_ID)
                case CallTool(name, text):
                    calls += 1
                    call_id = f"call_{key[-12:]}_{done}_{calls}"
                    yield ToolCallStart(call_id, name)
                    yield ToolCallEnd(call_id, text)
                    reason = "tool_use"
                case Fail(status, times):
                    self._fail((key, done, position), status, times, in_stream=bool(written))
                case Hang():
                    await self._sleep(self._limits.model_progress_s)
                    raise failure("timeout", f"the model sent nothing for {self._limits.model_progress_s:g} s")
                case Cut():
                    return
                case Finish(requested):
                    reason = requested
        size = sum(len(part.data.text) for row in request.messages for part in row.parts if isinstance(part, TextPart))
        yield Finished(reason, Tokens(input=size // 4 + 1, output=written + 1))

    def _fail(self, key: tuple[str, int, int], status: int, times: int, *, in_stream: bool) -> None:
        failed = self._failed.get(key, 0)
        if times and failed >= times:
            return
        if len(self._failed) > 256:
            self._failed.clear()  # only the newest prompts matter
        self._failed[key] = failed + 1
        raise failure(
            category_of_status(status), f"the script requested status {status}", status=status, in_stream=in_stream
        )
