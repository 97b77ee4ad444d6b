"""The tool `crush_logs`: the newest lines of this worker's own log.

The log is the file that the process writes its standard output and error to; the spec of the worker names it.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.secrets import MASK
from worker.config.load import WorkspaceConfig
from worker.config.redaction import Redaction
from worker.processes.thread_pool import StopFlag
from worker.toolkit.tool import ToolContext, ToolResult, ToolSpec, description_of, read_args, schema_of

LINES, LINES_MAX = 50, 100
LINE_MAX_BYTES = 1024 * 1024  # a longer one is left out
READ_FIRST_BYTES, READ_MAX_BYTES = 64 * 1024, 4 * 1024 * 1024
SHOWN_MAX_CHARACTERS = 1000  # of one line

_NAMED = re.compile(
    r"""((?:authorization|api[-_]?key|token|secret|password|credential)[\w.-]{0,40}\\?["']?\s*[=:]\s*)"""
    r"""(?:\\?".*?"(?=\s+[\w.]{1,40}=|\s*$|\s*[,}\])])|\\?["'].*|(?:bearer|basic|token)\s+\S+|\S+)""",
    re.IGNORECASE,
)
"""A value after the name of a secret. A quoted one ends where the next field begins: it may contain quotes itself."""

_BEARER = re.compile(r"(\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE)


class CrushLogsArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `crush_logs`."""

    lines: Annotated[int, Meta(ge=0, description="How many lines; 50 when left out, 100 at most")] = 0


class CrushLogs:
    """Shows the end of the log. A missing or unreadable file is reported as text, not as an error."""

    spec = ToolSpec(
        "crush_logs", description_of(__file__, "crush_logs"), schema_of(CrushLogsArgs), parallel=False, effect="read"
    )

    def __init__(self, log_path: str, config: WorkspaceConfig) -> None:
        """`log_path` is "" for a worker without a log file."""
        self._log_path = log_path
        self._config = config

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `crush_logs.md`."""
        count = min(read_args(CrushLogsArgs, args).lines or LINES, LINES_MAX)
        if not self._log_path:
            return ToolResult("This worker was started without a log file, so there is nothing to show.")
        path, mask = Path(self._log_path), Redaction(self._config.secrets)
        text = await context.children.threads.run(
            lambda stop: shown_log(path, count, mask, stop), timeout_s=context.limits.search_deadline_s
        )
        return ToolResult(text)


@dataclass(frozen=True)
class Tail:
    """The last lines of a file. `left_out` of them were too long; `is_whole` if the file has no earlier lines."""

    lines: list[bytes]
    left_out: int
    is_whole: bool


def shown_log(path: Path, count: int, mask: Redaction, stop: StopFlag) -> str:
    """Return the last `count` lines of a log for a model, masked, or a sentence why there are none. Blocks."""
    try:
        tail = tail_of(path, count, stop)
    except FileNotFoundError:
        return f"There is no log file at {path}."
    except OSError as error:
        return f"The log file {path} cannot be read: {error.strerror}."
    notes = [f"[{tail.left_out} lines longer than {LINE_MAX_BYTES} bytes are left out]"] if tail.left_out else []
    if not tail.lines and not notes:
        why = "is empty" if tail.is_whole else f"ends in a line of more than {LINE_MAX_BYTES} bytes, which is left out"
        return f"The log file {path} {why}."
    return "\n".join([f"The last {len(tail.lines)} lines of {path}:", *notes, *_shown(tail.lines, mask)])


def tail_of(path: Path, count: int, stop: StopFlag) -> Tail:
    """Read the last `count` lines, from the end in growing steps, at most `READ_MAX_BYTES`. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is not a file")
        end, window = status.st_size, READ_FIRST_BYTES
        while True:
            begin = max(0, end - window)
            lines = os.pread(descriptor, end - begin, begin).split(b"\n")
            if not lines[-1]:
                lines.pop()  # after the last line break
            if begin and lines:
                lines.pop(0)  # only the end of a line
            short = [line for line in lines if len(line) <= LINE_MAX_BYTES]
            if len(short) >= count or not begin or window >= READ_MAX_BYTES or stop.is_asked:
                return Tail(short[-count:], len(lines) - len(short), not begin)
            window *= 4
    finally:
        os.close(descriptor)


def masked(line: str) -> str:
    """Mask the values that follow names of secrets in a line of a log."""
    return _BEARER.sub(rf"\1{MASK}", _NAMED.sub(rf"\1{MASK}", line))


def _shown(lines: list[bytes], mask: Redaction) -> list[str]:
    shown: list[str] = []
    for line in lines:
        text = str(mask.tree({"": line.decode(errors="replace")})[""])  # before the cut, which may split a secret
        cut = text[:SHOWN_MAX_CHARACTERS]
        shown.append(masked(cut) + ("…" if len(cut) < len(text) else ""))
    return shown
