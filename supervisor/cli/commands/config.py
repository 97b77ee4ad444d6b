"""`bulkhead config`: what a worker here would be configured with, where each value came from, and what is wrong."""

import asyncio
import json
import os
import sys
from pathlib import Path

import click
import msgspec

from protocol.api.config_report import ConfigFile, ConfigReport, ConfigValue
from protocol.errors import BadInput, Unavailable
from supervisor.cli.common_options import EXIT_FAILED, directory, json_option, perform, print_json
from supervisor.cli.terminal.formatting import note, one_line, paint, table

READER = "worker.config.show"
READ_S = 60.0
VALUE_WIDTH = 60
_COLOURS = {"used": "green", "broken": "red", "not ours": "yellow", "not read": "yellow"}


@click.command(
    epilog="\b\nExamples:\n"
    "  bulkhead config                      everything, defaults as well\n"
    "  bulkhead config providers            one section\n"
    "  bulkhead config options.debug --json | jq .value\n"
    "  bulkhead config --sources            the files as well, lowest first"
)
@click.argument("key", required=False)
@json_option
@click.option("--sources", is_flag=True, help="Show all files that may count, in their order.")
@click.option(
    "-C",
    "--cwd",
    "--workspace",
    "cwd",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The directory that is meant; default: here.",
)
def config(key: str | None, as_json: bool, sources: bool, cwd: Path | None) -> None:
    """Show the configuration of a directory, and where each value came from.

    No server is needed: the files are read as a worker reads them, with the variables of this shell. Secrets are
    masked. Later files win over earlier ones. Exit code 1 when it cannot be used.
    """

    async def work() -> int:
        report = await _read(directory(cwd))
        values = _chosen(report, key) if key else report.values
        if as_json:
            for item in report.files if sources else values:
                print_json(item)
        else:
            if sources:
                _print_files(report.files, report)
                click.echo()
            if values:
                _print_values(values, report, VALUE_WIDTH if len(values) > 1 else sys.maxsize)
            if not key:
                _print_end(report)
        for warning in report.warnings if not key else ():
            note(f"warning: {warning}", "yellow")
        for problem in report.problems:
            note(f"bulkhead: {problem}", "red")
        return EXIT_FAILED if report.problems else 0

    perform(work())


async def _read(path: Path) -> ConfigReport:
    # `-P`: no folder of the user named like a package of ours gets in the way.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", READER, str(path)),
        cwd="/",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(READ_S):
            out, err = await process.communicate()
    except TimeoutError:
        raise Unavailable(f"cannot read the configuration of {path}: it takes longer than {READ_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        return msgspec.json.decode(out, type=ConfigReport)
    except msgspec.MsgspecError:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise Unavailable(
            f"cannot read the configuration of {path}: {last or f'exit code {process.returncode}'}"
        ) from None


def _chosen(report: ConfigReport, key: str) -> list[ConfigValue]:
    """The value of this key, or all below it. Raises BadInput when there is none."""
    found = [value for value in report.values if value.key == key or value.key.startswith((f"{key}.", f"{key}["))]
    if found or report.problems:
        return found
    import difflib  # only for who made a mistake

    names = {part for value in report.values for part in _prefixes(value.key)}
    near = difflib.get_close_matches(key, sorted(names), n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `bulkhead config` shows all"
    raise BadInput(f"cannot show {key}: nothing is set there{hint}")


def _prefixes(key: str) -> list[str]:
    return [key[:place] for place, char in enumerate(key) if char in ".["] + [key]


def _print_files(files: list[ConfigFile], report: ConfigReport) -> None:
    rows = [[str(number), file.status, _short(file.path, report)] for number, file in enumerate(files, 1)]
    head, *lines = table(["", "STATUS", "FILE"], rows, right=(0,)).split("\n")
    click.echo(paint(head, "bold", sys.stdout), color=True)
    for line, file in zip(lines, files, strict=True):
        colour = _COLOURS.get(file.status)
        # The status stands behind the number: nothing before it can be the same word.
        text = line.replace(file.status, paint(file.status, colour, sys.stdout), 1) if colour else line
        click.echo(text if colour else paint(line, "dim", sys.stdout), color=True)


def _print_values(values: list[ConfigValue], report: ConfigReport, width: int) -> None:
    rows = [
        [
            one_line(value.key, VALUE_WIDTH),
            one_line(json.dumps(value.value, ensure_ascii=False), width),
            _origin(value, report),
        ]
        for value in values
    ]
    head, *lines = table(["KEY", "VALUE", "FROM"], rows).split("\n")
    click.echo(paint(head, "bold", sys.stdout), color=True)
    for line, value in zip(lines, values, strict=True):
        click.echo(line if value.file else paint(line, "dim", sys.stdout), color=True)


def _print_end(report: ConfigReport) -> None:
    rows = [[f"{kind} model", chosen] for kind, chosen in report.models.items()]
    rows.append(["data directory", report.data_dir])
    click.echo()
    for name, value in rows:
        click.echo(f"{paint(f'{name:<14}', 'bold', sys.stdout)}  {value}", color=True)
    if report.hint:
        note(report.hint)


def _origin(value: ConfigValue, report: ConfigReport) -> str:
    if not value.file:
        return "default"
    return f"{_short(value.file, report)}:{value.line}" if value.line else _short(value.file, report)


def _short(path: str, report: ConfigReport) -> str:
    """A path as people would write it here."""
    home = os.environ.get("HOME", "")
    for place, name in ((report.workspace, ""), (home, "~/")):
        if place and path.startswith(f"{place.rstrip('/')}/"):
            return name + path[len(place.rstrip("/")) + 1 :]
    return path
