"""Compare HTTP clients for reading a provider's stream: `python -m benchmarks.http_clients [NAME ...]`.

Each client is measured and observed in processes of its own; clients that are not installed are left out. Use an
environment of its own for clients that the product does not need.
"""

import argparse
import asyncio
import dataclasses
import json
import subprocess
import sys
from importlib import metadata
from typing import Any

from benchmarks.http_clients import checks, costs
from benchmarks.http_clients.candidates import CANDIDATES
from benchmarks.table import shown
from benchmarks.token_path.helper_process import helper

CHILD_S_MAX = 120.0
Row = dict[str, Any]


async def _compare(names: list[str]) -> list[tuple[str, Row]]:
    rows = []
    async with helper("benchmarks.provider") as provider:
        for name in names:
            row: Row = {}
            for step in ("costs", "checks"):
                command = [sys.executable, "-m", "benchmarks.http_clients", "--step", step, name, provider.line]
                child = await asyncio.to_thread(
                    subprocess.run, command, stdout=subprocess.PIPE, timeout=CHILD_S_MAX, check=False
                )
                if child.returncode != 0:
                    print(f"{name} is left out: its {step} could not be measured", file=sys.stderr)
                    break
                row |= json.loads(child.stdout)
            else:
                if not row["proxy"]:
                    row["no_proxy"] = "–"
                rows.append((name, row))
    return rows


def _table(rows: list[tuple[str, Row]]) -> str:
    columns = {
        "import_ms": "import, ms CPU",
        "client_ms": "first client, ms CPU",
        "resident_mb": "resident after 20 streams, MB",
        "full_speed_us": "full speed, µs CPU per token",
        "paced_us": "20 × 50 tokens/s, µs CPU per token",
        "proxy": "HTTP_PROXY",
        "no_proxy": "NO_PROXY",
        "trusts_ssl_cert_file": "SSL_CERT_FILE",
        "cancel_ms": "cancel closes the connection after, ms",
        "unread_mb": "taken in unread in 1 s, MB",
    }
    lines = [f"| client | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows:
        lines.append(f"| {name} {_version(name)} | {' | '.join(_cell(row[key]) for key in columns)} |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    match value:
        case None:
            return "never"
        case str():
            return value
        case bool():
            return "yes" if value else "**no**"
        case _:
            return shown(float(str(value)))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def main() -> int:
    """Print the table, or the result of one step as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http_clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(CANDIDATES)} (default: all)")
    parser.add_argument("--step", choices=("costs", "checks"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        name, port = arguments.names
        candidate = CANDIDATES[name]
        if arguments.step == "costs":
            result = dataclasses.asdict(asyncio.run(costs.measure(candidate, int(port))))
        else:
            result = dataclasses.asdict(asyncio.run(checks.observe(candidate)))
        print(json.dumps(result))
        return 0
    for name in arguments.names:
        if name not in CANDIDATES:
            parser.error(f"unknown client {name!r}; use any of {', '.join(CANDIDATES)}")
    print(_table(asyncio.run(_compare(arguments.names or list(CANDIDATES)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
