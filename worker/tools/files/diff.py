"""Compare two texts: lines added and removed, and a unified diff. The work is bounded on any input."""

import difflib
from dataclasses import dataclass

LINES_MAX = 2000  # of the differing part; a longer one is not compared line by line and counts as changed as a whole
CONTEXT_LINES = 3
EXCERPT_LINES = 20  # shown around the differing part in a permission request


@dataclass(frozen=True)
class TextDiff:
    """Line counts and the unified diff (empty when it would be too long)."""

    additions: int
    removals: int
    diff: str


def compare(old: str, new: str, name: str, diff_max_bytes: int) -> TextDiff:
    """Compare `old` with `new`; `name` is the file name in the head of the diff."""
    before, after = _lines(old), _lines(new)
    start = _common_prefix(before, after)
    end = _common_prefix(before[start:][::-1], after[start:][::-1])
    old_part, new_part = before[start : len(before) - end], after[start : len(after) - end]
    if max(len(old_part), len(new_part)) > LINES_MAX:
        return TextDiff(len(new_part), len(old_part), "")
    # Only the differing part and its context are compared, so the line numbers are shifted by `first`.
    first = max(0, start - CONTEXT_LINES)
    lines = list(
        difflib.unified_diff(
            before[first : len(before) - end + CONTEXT_LINES],
            after[first : len(after) - end + CONTEXT_LINES],
            f"a/{name}",
            f"b/{name}",
            n=CONTEXT_LINES,
        )
    )
    additions = sum(1 for line in lines[2:] if line.startswith("+"))
    removals = sum(1 for line in lines[2:] if line.startswith("-"))
    text = "".join(_shift_line(line, first) for line in lines)
    return TextDiff(additions, removals, text if len(text.encode("utf-8", "replace")) <= diff_max_bytes else "")


def excerpt(old: str, new: str, max_bytes: int) -> tuple[str, str]:
    """Return both texts, or of long ones the part that differs with a note on the equal lines left out.

    The two are about `max_bytes` long together.
    """
    if _size(old) + _size(new) <= max_bytes:
        return old, new
    before, after = _lines(old), _lines(new)
    start = _common_prefix(before, after)
    end = _common_prefix(before[start:][::-1], after[start:][::-1])
    first, last = max(0, start - EXCERPT_LINES), max(0, end - EXCERPT_LINES)
    head = f"... [{first} equal lines left out] ...\n" if first else ""
    foot = f"... [{last} equal lines left out] ...\n" if last else ""
    parts = ("".join(lines[first : len(lines) - last]) for lines in (before, after))
    one, other = (f"{head}{_shorten(part, max_bytes // 2)}{foot}" for part in parts)
    return one, other


def _shorten(text: str, max_bytes: int) -> str:
    """Return the text, or its beginning and end when it is longer than `max_bytes`."""
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return text
    half = max_bytes // 2
    head, tail = data[:half].decode("utf-8", "ignore"), data[len(data) - half :].decode("utf-8", "ignore")
    return f"{head}\n... [{len(data) - 2 * half} bytes left out] ...\n{tail}"


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _lines(text: str) -> list[str]:
    """Split into lines that keep their newlines. `splitlines` would also split at characters that end no line."""
    *whole, last = text.split("\n")
    return [line + "\n" for line in whole] + ([last] if last else [])


def _common_prefix(left: list[str], right: list[str]) -> int:
    """Count the items that are equal from the start."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _shift_line(line: str, by: int) -> str:
    """Shift the line numbers of a hunk head by `by`, and end a last line that has no newline."""
    if by and line.startswith("@@ "):
        ranges = [_shift_range(part, by) for part in line.split()[1:3]]
        return f"@@ {' '.join(ranges)} @@\n"
    return line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


def _shift_range(part: str, by: int) -> str:
    sign, numbers = part[0], part[1:].split(",")
    return f"{sign}{','.join([str(int(numbers[0]) + by), *numbers[1:]])}"
