"""What people read: colours where they are wanted, tables, sizes and times in words."""

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
    """May this stream get colours? Not when it is no terminal, nor when NO_COLOR is set (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def paint(text: str, colour: str, stream: IO[Any]) -> str:
    """`text` in a colour, or as it is where there are none."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if has_colour(stream) and text else text


def tame(text: str, stream: IO[Any]) -> str:
    """`text` without control characters, for a terminal: what a model says must not move its cursor or write its
    clipboard. A file or a pipe gets every byte."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text) if stream.isatty() else text


def note(text: str, colour: str = "dim") -> None:
    """One line for the person at the terminal, on standard error so that standard output stays the answer."""
    try:
        print(paint(tame(text, sys.stderr), colour, sys.stderr), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # nobody reads it


def one_line(text: str, width: int) -> str:
    """The start of `text` on one line of at most `width` characters, without control characters."""
    flat = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return flat if len(flat) <= width else flat[: max(0, width - 1)] + "…"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns under their heads, as wide as they must be; those with an index in `right` lean right."""
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
    """Bytes in a unit that fits: `0`, `512 B`, `23.4 MB`."""
    if count < 1024:
        return f"{count} B" if count else "-"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1024
        if value < 1024 or unit == "GB":
            break
    return f"{value:.1f} {unit}"


def ago(seconds: float) -> str:
    """How long ago, roughly: `3s`, `12m`, `5h`, `2d`."""
    for limit, unit, divisor in ((120, "s", 1), (7200, "m", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{max(0, int(seconds / divisor))}{unit}"
    return f"{int(seconds / 86_400)}d"


def since(stamp_s: float | None) -> str:
    """How long ago a Unix time was; `-` for never."""
    return ago(time.time() - stamp_s) if stamp_s else "-"


def outcome(run: Run) -> str:
    """How a run stands: its state while it is open, its outcome afterwards."""
    return run.outcome if run.state == "ended" and run.outcome else run.state
