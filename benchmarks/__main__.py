"""`python -m benchmarks [GROUP ...]`: measures the real service, each figure beside its floor, and prints a table."""

import argparse
import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import fanout, floors, latency, memory, models, reading, scale, starting, zygote
from benchmarks.table import Figure, markdown

GROUPS: dict[str, Callable[[floors.Floors], Awaitable[list[Figure]]]] = {
    "starting": starting.measure,
    "latency": latency.measure,
    "reading": reading.measure,
    "scale": scale.measure,
    "fanout": fanout.measure,
    "memory": memory.measure,
    "models": models.measure,
    "zygote": zygote.measure,
}


async def measure(groups: list[str]) -> tuple[list[Figure], list[str]]:
    """The figures of the groups, and the groups that broke."""
    found, broken = [], []
    print("floors ...", file=sys.stderr, flush=True)
    bare = await floors.measure()
    for group in groups:
        print(f"{group} ...", file=sys.stderr, flush=True)
        try:
            found += await GROUPS[group](bare)
        except Exception:
            traceback.print_exc()
            broken.append(group)
    return found, broken


def main() -> int:
    """Run, print, and exit with 1 when a group broke. A goal that is not reached is told, not punished."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all when left out")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    for group in arguments.groups:
        if group not in GROUPS:
            parser.error(f"there is no group {group!r}; there are {', '.join(GROUPS)}")
    found, broken = asyncio.run(measure(arguments.groups or list(GROUPS)))
    table = markdown(found)
    print(table)
    if arguments.output:
        arguments.output.write_text(table + "\n", encoding="utf-8")
    for group in broken:
        print(f"group {group} broke: see above", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
