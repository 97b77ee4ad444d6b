"""What changed between two texts: lines added and removed, and a unified diff. Bounded work on any input."""

import difflib
from dataclasses import dataclass

LINES_MAX = 2000  # of the differing part; beyond it comparing line by line takes too long, all of it counts as changed
CONTEXT_LINES = 3
EXCERPT_LINES = 20  # around the differing part, for people who are asked about it


@dataclass(frozen=True)
class Change:
    """Counts of lines, and the diff as text (empty when it would be too long)."""

    additions: int
    removals: int
    diff: str


def compare(old: str, new: str, name: str, diff_max_bytes: int) -> Change:
    """How `old` became `new`; `name` stands in the head of the diff."""
    before, after = _lines(old), _lines(new)
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    old_part, new_part = before[start : len(before) - end], after[start : len(after) - end]
    if max(len(old_part), len(new_part)) > LINES_MAX:
        return Change(len(new_part), len(old_part), "")
    # Only the differing part and its surroundings are compared; equal ends make line numbers shift by `first`.
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
    text = "".join(_shifted(line, first) for line in lines)
    return Change(additions, removals, text if len(text.encode("utf-8", "replace")) <= diff_max_bytes else "")


def excerpt(old: str, new: str, max_bytes: int) -> tuple[str, str]:
    """Both texts, or of long ones the part that differs, with what is left out counted alike in both.

    At most about `max_bytes` together.
    """
    if _size(old) + _size(new) <= max_bytes:
        return old, new
    before, after = _lines(old), _lines(new)
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    first, last = max(0, start - EXCERPT_LINES), max(0, end - EXCERPT_LINES)
    head = f"... [{first} equal lines left out] ...\n" if first else ""
    foot = f"... [{last} equal lines left out] ...\n" if last else ""
    parts = ("".join(lines[first : len(lines) - last]) for lines in (before, after))
    one, other = (f"{head}{_shortened(part, max_bytes // 2)}{foot}" for part in parts)
    return one, other


def _shortened(text: str, max_bytes: int) -> str:
    """Beginning and end of a text that is too long."""
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return text
    half = max_bytes // 2
    head, tail = data[:half].decode("utf-8", "ignore"), data[len(data) - half :].decode("utf-8", "ignore")
    return f"{head}\n... [{len(data) - 2 * half} bytes left out] ...\n{tail}"


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _lines(text: str) -> list[str]:
    """The lines with their newlines. Not `splitlines`: it also splits at characters that end no line in a file."""
    *whole, last = text.split("\n")
    return [line + "\n" for line in whole] + ([last] if last else [])


def _common(left: list[str], right: list[str]) -> int:
    """How many items are equal from the start."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _shifted(line: str, by: int) -> str:
    """A line of the diff; hunk heads get the line numbers of the whole file, an unfinished last line its newline."""
    if by and line.startswith("@@ "):
        ranges = [_shifted_range(part, by) for part in line.split()[1:3]]
        return f"@@ {' '.join(ranges)} @@\n"
    return line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


def _shifted_range(part: str, by: int) -> str:
    sign, numbers = part[0], part[1:].split(",")
    return f"{sign}{','.join([str(int(numbers[0]) + by), *numbers[1:]])}"
