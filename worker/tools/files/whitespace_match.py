"""Replacing whole lines whose blanks a model did not copy exactly; what is put in gets the file's indentation (6.7). ◇

Lines are compared with every run of blanks as one and without those at their ends. The place must be the only one
unless all are meant. Then the new text is indented as the file is: its units of indentation are counted, shifted by
the difference between the first lines, and written in the file's own unit.
"""

from collections.abc import Sequence

from worker.tools.files.replace import NoMatch, Replaced, SeveralMatches

HINT_LINES_MAX = 40
HINT_WINDOWS_MAX = 20_000


def replace_loosely(text: str, old: str, new: str, *, replace_all: bool) -> Replaced:
    """Replace the lines of `old` by those of `new`. Line ends are those of the file. Raises NoMatch, SeveralMatches."""
    *whole, last = text.split("\n")
    lines = [line + "\n" for line in whole] + ([last] if last else [])
    wanted = _core(old)
    shape = [_plain(line) for line in wanted]
    if not any(shape):
        raise NoMatch
    places = _places([_plain(line) for line in lines], shape, overlapping=not replace_all)
    if not places:
        raise NoMatch
    if len(places) > 1 and not replace_all:
        raise SeveralMatches
    file_unit = unit_of(lines)
    pieces: list[str] = []
    at = 0
    for place in places:
        end = place + len(shape)
        pieces += lines[at:place]
        pieces += _fitted(lines[place:end], wanted, _core(new), file_unit)
        at = end
    return Replaced("".join([*pieces, *lines[at:]]), len(places))


def unit_of(lines: Sequence[str]) -> str:
    """One step of indentation: a tab if any line begins with one, else the smallest number of blanks; two for none."""
    widths = []
    for line in lines:
        if line.startswith("\t"):
            return "\t"
        width = len(line) - len(line.lstrip(" "))
        if width and line.strip():
            widths.append(width)
    return " " * min(widths, default=2)


def hint(text: str, old: str) -> str:
    """Where the file is most like `old`: its lines there with blanks made visible, or "" when nothing is alike."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    wanted = [line.strip() for line in _core(old)]
    if not any(wanted) or len(wanted) > HINT_LINES_MAX or len(lines) * len(wanted) > HINT_WINDOWS_MAX * 20:
        return ""
    best, best_equal = 0, 0
    for start in range(max(1, len(lines) - len(wanted) + 1)):
        window = lines[start : start + len(wanted)]
        equal = sum(bool(given) and given == line.strip() for given, line in zip(wanted, window, strict=False))
        if equal > best_equal:
            best, best_equal = start, equal
    if best_equal * 2 < sum(bool(line) for line in wanted) or not best_equal:
        return ""
    shown = "\n".join(_visible(line) for line in lines[best : best + len(wanted)])
    return f"; most alike are lines {best + 1} to {best + len(wanted)} (· is a blank, → a tab):\n{shown}"


def _visible(line: str) -> str:
    body = line.lstrip(" \t")
    lead = line[: len(line) - len(body)].replace(" ", "·").replace("\t", "→")
    tail = body[len(body.rstrip(" \t")) :].replace(" ", "·").replace("\t", "→")
    return lead + body.rstrip(" \t") + tail


def _core(text: str) -> list[str]:
    """The lines of a text without empty ones around it."""
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _plain(line: str) -> str:
    return " ".join(line.split())


def _places(lines: Sequence[str], shape: Sequence[str], *, overlapping: bool) -> list[int]:
    found: list[int] = []
    start = 0
    while start + len(shape) <= len(lines):
        if lines[start] == shape[0] and list(lines[start : start + len(shape)]) == list(shape):
            found.append(start)
            start += 1 if overlapping else len(shape)
            if overlapping and len(found) == 2:
                break
        else:
            start += 1
    return found


def _fitted(matched: Sequence[str], wanted: Sequence[str], new: Sequence[str], file_unit: str) -> list[str]:
    """`new` with the indentation and the line ends of the lines that it replaces."""
    given_unit = unit_of([*wanted, *new])
    first_there = next(line for line in matched if line.strip())
    first_given = next(line for line in wanted if line.strip())
    shift = _depth(first_there, file_unit) - _depth(first_given, given_unit)
    ends = ["\r\n" if line.endswith("\r\n") else "\n" if line.endswith("\n") else "" for line in matched]
    inner_end = next((end for end in ends if end), "\n")
    fitted = []
    for line in new:
        body = line.lstrip(" \t")
        depth = max(0, _depth(line, given_unit) + shift)
        fitted.append((file_unit * depth + body.rstrip("\r") if body else "") + inner_end)
    if fitted and not ends[-1]:
        fitted[-1] = fitted[-1].removesuffix(inner_end)
    return fitted


def _depth(line: str, unit: str) -> int:
    """How many steps a line is indented; a tab is one step, whatever the unit."""
    lead = line[: len(line) - len(line.lstrip(" \t"))]
    blanks = len(lead) - lead.count("\t")
    step = len(unit) if unit != "\t" else 4
    return lead.count("\t") + round(blanks / step)
