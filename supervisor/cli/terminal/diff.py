"""Show a change to a file as a short diff, for the person who is asked to allow it."""

import difflib

LINES_MAX = 60
WIDTH = 200
_COMPARED_MAX = 400_000
"""In characters. The cost of comparing grows with the product of both lengths, and a person is waiting."""


def short_diff(old: str, new: str) -> list[str]:
    """Return the changed lines with two lines of context, and a last line that counts the lines not shown.

    Characters that are invisible or change the direction of text become the replacement character, because the person
    must see exactly what they allow.
    """
    before, after = old.splitlines(), new.splitlines()
    if len(old) + len(new) > _COMPARED_MAX:
        return [f"… {len(before)} lines become {len(after)}: too long to compare here"]
    lines = list(difflib.unified_diff(before, after, n=2, lineterm=""))[2:]  # without the two lines of file names
    if not lines and old != new:
        return ["… only line endings change"]
    shown = [_plain(line) for line in lines[:LINES_MAX]]
    if len(lines) > LINES_MAX:
        added, removed = (sum(line.startswith(sign) for line in lines[LINES_MAX:]) for sign in "+-")
        shown.append(f"… {added} more lines added, {removed} more removed")
    return shown


def _plain(line: str) -> str:
    line = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line[:1] + line[1:].expandtabs(4)
    )
    return line if len(line) <= WIDTH else f"{line[:WIDTH]}… {len(line) - WIDTH} more characters"
