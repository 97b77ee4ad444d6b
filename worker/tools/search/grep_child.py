"""Search files for `grep` where ripgrep is missing: `python -P -m worker.tools.search.grep_child REQUEST`.

REQUEST is a JSON object with `pattern`, `include` and `target`; the current directory is the one to search. The exit
codes are those of ripgrep: 0 for matches, 1 for none, 2 for a bad pattern. A process can be killed at any moment.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from worker.tools.search.directory_walk import walk
from worker.tools.search.patterns import compile_glob, expand_braces, glob_names, matches

SNIFFED_BYTES = 1024  # a file with a NUL in them is not a text file
LINE_MAX_BYTES = 64 * 1024  # a longer line is searched in pieces
SHOWN_MAX_CHARACTERS = 501  # one more than is shown, so that the parent sees that it was cut


def main(argument: str) -> int:
    """Search and print. Returns the exit code."""
    request = json.loads(argument)
    try:
        pattern = re.compile(request["pattern"])
    except (re.error, OverflowError, RecursionError) as error:
        sys.stderr.write(f"bad regular expression: {error}\n")
        return 2
    has_matches = False
    for path in _files(request["target"], request["include"]):
        for number, column, text in _search(path, pattern):
            has_matches = True
            row = f":{column}:{text[:SHOWN_MAX_CHARACTERS]}\n".encode("utf-8", "replace")
            sys.stdout.buffer.write(os.fsencode(path) + b"\0" + str(number).encode() + row)
        sys.stdout.buffer.flush()
    return 0 if has_matches else 1


def _files(target: str, include: str) -> Iterator[Path]:
    if target != ".":
        yield Path(target)
        return
    patterns = [compile_glob(glob_names(pattern)) for pattern in expand_braces(include)]
    for entry in walk(Path(), lambda: False):
        if entry.is_directory or entry.is_link or any(name.startswith(".") for name in entry.names):
            continue
        if not include or any(matches(pattern, entry.names) for pattern in patterns):
            yield Path(*entry.names)


def _search(path: Path, pattern: "re.Pattern[str]") -> Iterator[tuple[int, int, str]]:
    """Yield number, column of the first match, and text of each matching line; nothing unless it is a text file."""
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
        except OSError:  # it was removed, or is a directory
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
