"""What a person is shown of a change to a file before they allow it."""

import difflib

LINES_MAX = 60
WIDTH = 200
_COMPARED_MAX = 400_000
"""Characters. Comparing costs up to the product of both lengths, and a person waits."""


def difference(old: str, new: str) -> list[str]:
    """The changed lines with two around them, and a last line that says what is not shown.

    Characters that print nothing, or that turn the direction of a text, appear as the replacement character: what is
    allowed must be what was seen.
    """
    before, after = old.splitlines(), new.splitlines()
    if len(old) + len(new) > _COMPARED_MAX:
        return [f"… {len(before)} lines become {len(after)}, too much to compare here"]
    lines = list(difflib.unified_diff(before, after, n=2, lineterm=""))[2:]  # without the two lines of file names
    if not lines and old != new:
        return ["… only ends of lines change"]
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
