"""Measure a real server and print a table: each figure beside its floor, the cost of the bare operation."""

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
    """Run the groups. Return their figures, and the names of the groups that failed."""
    figures, failed = [], []
    print("floors ...", file=sys.stderr, flush=True)
    bare = await floors.measure()
    for group in groups:
        print(f"{group} ...", file=sys.stderr, flush=True)
        try:
            figures += await GROUPS[group](bare)
        except Exception:
            traceback.print_exc()
            failed.append(group)
    return figures, failed


def main() -> int:
    """Print the table; return 1 if a group failed. A missed goal is reported, it does not change the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(GROUPS)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"what to measure: {names} (default: all of them)")
    parser.add_argument("--output", type=Path, help="also write the table (Markdown) to this file")
    arguments = parser.parse_args()
    for group in arguments.groups:
        if group not in GROUPS:
            parser.error(f"unknown group {group!r}; use any of {names}")
    figures, failed = asyncio.run(measure(arguments.groups or list(GROUPS)))
    table = markdown(figures)
    print(table)
    if arguments.output:
        arguments.output.write_text(table + "\n", encoding="utf-8")
    for group in failed:
        print(f"group {group} failed: see above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
