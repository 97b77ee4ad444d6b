"""Format output for people: colours, tables, sizes, durations, and text without control characters."""

import os
import re
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

from protocol.api.agent import Run

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CODES = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35"}


def has_colour(stream: IO[Any]) -> bool:
    """Return whether to write colours to this stream.

    It must be a terminal, or FORCE_COLOR be set; NO_COLOR (no-color.org) and TERM=dumb switch colours off.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def colourise(text: str, colour: str, stream: IO[Any]) -> str:
    """Return `text` in a colour if the stream gets colours, else unchanged."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if has_colour(stream) and text else text


def strip_controls(text: str, stream: IO[Any]) -> str:
    """Replace control characters if the stream is a terminal; files and pipes get every byte.

    Otherwise a model's answer could move the cursor or write the clipboard.
    """
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text) if stream.isatty() else text


def note(text: str, colour: str = "dim") -> None:
    """Print one line on standard error; standard output is for the answer only."""
    try:
        print(colourise(strip_controls(text, sys.stderr), colour, sys.stderr), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # standard error is closed


def one_line(text: str, width: int) -> str:
    """Return the beginning of `text` as one line of at most `width` characters, without control characters."""
    flat = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return flat if len(flat) <= width else flat[: max(0, width - 1)] + "…"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return aligned columns under their heads; columns whose index is in `right` are right-aligned."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size(count: int) -> str:
    """Return a number of bytes in a readable unit: `-` for 0, `512 B`, `23.4 MB`."""
    if count < 1024:
        return f"{count} B" if count else "-"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1024
        if value < 1024 or unit == "GB":
            break
    return f"{value:.1f} {unit}"


def ago(seconds: float) -> str:
    """Return a rough duration: `3s`, `12m`, `5h`, `2d`."""
    for limit, unit, divisor in ((120, "s", 1), (7200, "m", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{max(0, int(seconds / divisor))}{unit}"
    return f"{int(seconds / 86_400)}d"


def since(stamp_s: float | None) -> str:
    """Return how long ago a Unix time was; `-` for None or 0."""
    return ago(time.time() - stamp_s) if stamp_s else "-"


def outcome(run: Run) -> str:
    """Return the state of an open run, or the outcome of one that has ended."""
    return run.outcome if run.state == "ended" and run.outcome else run.state
