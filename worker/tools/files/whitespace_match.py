"""Replace whole lines whose white space a model did not copy exactly, and indent the new lines as the file is.

Lines are compared with each run of white space as one blank and without white space at their ends. The match must be
the only one unless all are requested. The new lines keep their depth in units of indentation, shifted by the difference
between the two first lines, and are written in the unit of the file.
"""

from collections.abc import Sequence

from worker.tools.files.replace import NoMatch, Replaced, SeveralMatches

CLOSEST_LINES_MAX = 40  # of the text that was not found
CLOSEST_COMPARISONS_MAX = 400_000  # of lines


def replace_ignoring_whitespace(text: str, old: str, new: str, *, replace_all: bool) -> Replaced:
    """Replace the lines of `old` by those of `new`, with the file's line endings. Raises NoMatch, SeveralMatches."""
    *whole, last = text.split("\n")
    lines = [line + "\n" for line in whole] + ([last] if last else [])
    old_lines = _strip_empty_lines(old)
    pattern = [_normalize(line) for line in old_lines]
    if not any(pattern):
        raise NoMatch
    starts = _find_all([_normalize(line) for line in lines], pattern, overlapping=not replace_all)
    if not starts:
        raise NoMatch
    if len(starts) > 1 and not replace_all:
        raise SeveralMatches
    file_unit = indent_unit(lines)
    pieces: list[str] = []
    copied = 0
    for start in starts:
        end = start + len(pattern)
        pieces += lines[copied:start]
        pieces += _indent_like(lines[start:end], old_lines, _strip_empty_lines(new), file_unit)
        copied = end
    return Replaced("".join([*pieces, *lines[copied:]]), len(starts))


def indent_unit(lines: Sequence[str]) -> str:
    """Return one unit of indentation: a tab if any line begins with one, else the smallest number of blanks, or two."""
    widths = []
    for line in lines:
        if line.startswith("\t"):
            return "\t"
        width = len(line) - len(line.lstrip(" "))
        if width and line.strip():
            widths.append(width)
    return " " * min(widths, default=2)


def describe_closest_lines(text: str, old: str) -> str:
    """Return a note with the lines of the file most similar to `old`, white space made visible; "" when none are."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    old_lines = [line.strip() for line in _strip_empty_lines(old)]
    count = len(old_lines)
    if not any(old_lines) or count > CLOSEST_LINES_MAX or len(lines) * count > CLOSEST_COMPARISONS_MAX:
        return ""
    best, best_equal = 0, 0
    for start in range(max(1, len(lines) - count + 1)):
        window = lines[start : start + count]
        equal = sum(
            bool(old_line) and old_line == line.strip() for old_line, line in zip(old_lines, window, strict=False)
        )
        if equal > best_equal:
            best, best_equal = start, equal
    if best_equal * 2 < sum(bool(line) for line in old_lines) or not best_equal:
        return ""
    shown = "\n".join(_show_white_space(line) for line in lines[best : best + count])
    return f"; the most similar lines are {best + 1} to {best + count} (· is a blank, → a tab):\n{shown}"


def _show_white_space(line: str) -> str:
    body = line.lstrip(" \t")
    lead = line[: len(line) - len(body)].replace(" ", "·").replace("\t", "→")
    tail = body[len(body.rstrip(" \t")) :].replace(" ", "·").replace("\t", "→")
    return lead + body.rstrip(" \t") + tail


def _strip_empty_lines(text: str) -> list[str]:
    """Split into lines, without the empty ones at the beginning and the end."""
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _normalize(line: str) -> str:
    return " ".join(line.split())


def _find_all(lines: Sequence[str], pattern: Sequence[str], *, overlapping: bool) -> list[int]:
    """Return the first lines of the matches. With `overlapping` at most two, enough to see that it is not unique."""
    starts: list[int] = []
    start = 0
    while start + len(pattern) <= len(lines):
        if lines[start] == pattern[0] and list(lines[start : start + len(pattern)]) == list(pattern):
            starts.append(start)
            start += 1 if overlapping else len(pattern)
            if overlapping and len(starts) == 2:
                break
        else:
            start += 1
    return starts


def _indent_like(matched: Sequence[str], old: Sequence[str], new: Sequence[str], file_unit: str) -> list[str]:
    """Return `new` with the indentation and the line endings of the `matched` lines that it replaces."""
    model_unit = indent_unit([*old, *new])
    first_matched = next(line for line in matched if line.strip())
    first_old = next(line for line in old if line.strip())
    shift = _depth(first_matched, file_unit) - _depth(first_old, model_unit)
    ends = ["\r\n" if line.endswith("\r\n") else "\n" if line.endswith("\n") else "" for line in matched]
    inner_end = next((end for end in ends if end), "\n")
    indented = []
    for line in new:
        body = line.lstrip(" \t")
        depth = max(0, _depth(line, model_unit) + shift)
        indented.append((file_unit * depth + body.rstrip("\r") if body else "") + inner_end)
    if indented and not ends[-1]:
        indented[-1] = indented[-1].removesuffix(inner_end)
    return indented


def _depth(line: str, unit: str) -> int:
    """Count the units by which a line is indented; a tab is one, whatever the unit."""
    lead = line[: len(line) - len(line.lstrip(" \t"))]
    blanks = len(lead) - lead.count("\t")
    step = len(unit) if unit != "\t" else 4
    return lead.count("\t") + round(blanks / step)
