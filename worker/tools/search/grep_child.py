"""Search files for `grep` where ripgrep is missing: `python -P -m worker.tools.search.grep_child REQUEST`.

REQUEST is a JSON object with `pattern`, `include` and `target`; the current directory is the one to search. Exit codes
are ripgrep's: 0 something found, 1 nothing, 2 a bad pattern. Being a process, it can be ended at any moment.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from worker.tools.search.directory_walk import walk
from worker.tools.search.patterns import expand_braces, matches, split

SNIFFED_BYTES = 1024  # a NUL in them: not a text file
LINE_MAX_BYTES = 64 * 1024  # what is longer is searched in pieces
SHOWN_MAX_CHARACTERS = 501  # one more than is shown, so that the reader sees that it was cut


def main(argument: str) -> int:
    """Search and print. Returns the exit code."""
    request = json.loads(argument)
    try:
        pattern = re.compile(request["pattern"])
    except (re.error, OverflowError, RecursionError) as error:
        sys.stderr.write(f"bad regular expression: {error}\n")
        return 2
    found = False
    for path in _files(request["target"], request["include"]):
        for number, column, text in _search(path, pattern):
            found = True
            row = f":{column}:{text[:SHOWN_MAX_CHARACTERS]}\n".encode("utf-8", "replace")
            sys.stdout.buffer.write(os.fsencode(path) + b"\0" + str(number).encode() + row)
        sys.stdout.buffer.flush()
    return 0 if found else 1


def _files(target: str, include: str) -> Iterator[Path]:
    if target != ".":
        yield Path(target)
        return
    shapes = [split(each) if "/" in each else ("**", *split(each)) for each in expand_braces(include)]
    for entry in walk(Path(), lambda: False):
        if entry.is_directory or entry.is_link or any(name.startswith(".") for name in entry.names):
            continue
        if not include or any(matches(shape, entry.names) for shape in shapes):
            yield Path(*entry.names)


def _search(path: Path, pattern: "re.Pattern[str]") -> Iterator[tuple[int, int, str]]:
    """Line, column of its first match, and text of each line that fits. Nothing for what is not a text file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    with open(fd, "rb") as file:
        try:
            if b"\0" in file.peek(SNIFFED_BYTES)[:SNIFFED_BYTES]:
                return
            number, is_new_line = 0, True
            while raw := file.readline(LINE_MAX_BYTES):
                number += is_new_line
                is_new_line = raw.endswith(b"\n")
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if match := pattern.search(line):
                    yield number, match.start() + 1, line
        except OSError:  # it vanished, or is a directory
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
