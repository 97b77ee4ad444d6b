"""Measure a real server and print a table: each figure beside its floor, the cost of the bare operation."""

import argparse
import asyncio
import dataclasses
import functools
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import fanout, floors, latency, memory, models, reading, scale, starting, zygote
from benchmarks.table import Figure, machine, markdown
from benchmarks.token_path import group as token_path
from benchmarks.token_path.options import Options, quick

Group = Callable[[floors.Floors], Awaitable[list[Figure]]]
GROUPS: dict[str, Group] = {
    "starting": starting.measure,
    "latency": latency.measure,
    "reading": reading.measure,
    "scale": scale.measure,
    "fanout": fanout.measure,
    "memory": memory.measure,
    "models": models.measure,
    "zygote": zygote.measure,
}
PROVIDER = "provider"


async def measure(groups: dict[str, Group]) -> tuple[list[Figure], list[str]]:
    """Run the groups. Return their figures, and the names of the groups that failed."""
    figures, failed = [], []
    print("floors ...", file=sys.stderr, flush=True)
    bare = await floors.measure()
    for group, run in groups.items():
        print(f"{group} ...", file=sys.stderr, flush=True)
        try:
            figures += await run(bare)
        except Exception:
            traceback.print_exc()
            failed.append(group)
    return figures, failed


def main() -> int:
    """Print the table; return 1 if a group failed. A missed goal is reported, it does not change the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join((PROVIDER, *GROUPS))
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"what to measure: {names} (default: all of them)")
    parser.add_argument("--output", type=Path, help="also write the table (Markdown) to this file")
    parser.add_argument("--repeat", type=int, metavar="N", help=f"repetitions of the group {PROVIDER} (default: 3)")
    parser.add_argument("--quick", action="store_true", help=f"smoke test: small counts in the group {PROVIDER}")
    arguments = parser.parse_args()
    options = quick() if arguments.quick else Options()
    if arguments.repeat is not None:
        options = dataclasses.replace(options, repetitions=max(1, arguments.repeat))
    available = {PROVIDER: functools.partial(token_path.measure, options=options)} | GROUPS
    for group in arguments.groups:
        if group not in available:
            parser.error(f"unknown group {group!r}; use any of {names}")
    chosen = {group: available[group] for group in arguments.groups or available}
    heading = machine()  # before, because of the load that it shows
    figures, failed = asyncio.run(measure(chosen))
    table = markdown(figures, heading)
    print(table)
    if arguments.output:
        arguments.output.write_text(table + "\n", encoding="utf-8")
    for group in failed:
        print(f"group {group} failed: see above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
