"""Implement `bulkhead config`: show the configuration a worker here would use, the origin of each value, and errors."""

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
from supervisor.cli.terminal.formatting import colourise, note, one_line, table

READER = "worker.config.show"
READ_S = 60.0
VALUE_WIDTH = 60
_COLOURS = {"used": "green", "broken": "red", "not ours": "yellow", "not read": "yellow"}


@click.command(
    epilog="\b\nExamples:\n"
    "  bulkhead config                      all values, including defaults\n"
    "  bulkhead config providers            one section\n"
    "  bulkhead config options.debug --json | jq .value\n"
    "  bulkhead config --sources            also the files, lowest precedence first"
)
@click.argument("key", required=False)
@json_option
@click.option("--sources", is_flag=True, help="Also show all configuration files, in the order they are read.")
@click.option(
    "-C",
    "--cwd",
    "--workspace",
    "cwd",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory of the workspace; default: the current directory.",
)
def config(key: str | None, as_json: bool, sources: bool, cwd: Path | None) -> None:
    """Show a directory's configuration and the origin of each value.

    Needs no server: the files are read as a worker reads them, with the variables of this shell. Secrets are masked.
    Later files override earlier ones. The exit code is 1 when the configuration has errors.
    """

    async def work() -> int:
        report = await _read(directory(cwd))
        values = _select(report, key) if key else report.values
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
                _print_summary(report)
        for warning in report.warnings if not key else ():
            note(f"warning: {warning}", "yellow")
        for problem in report.problems:
            note(f"bulkhead: {problem}", "red")
        return EXIT_FAILED if report.problems else 0

    perform(work())


async def _read(path: Path) -> ConfigReport:
    # `-P` keeps a user's folder from shadowing one of our packages.
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
        raise Unavailable(f"cannot read the configuration of {path}: this took longer than {READ_S:g} s") from None
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


def _select(report: ConfigReport, key: str) -> list[ConfigValue]:
    """Return the value of this key, or all values below it. Raises BadInput when there is none."""
    selected = [value for value in report.values if value.key == key or value.key.startswith((f"{key}.", f"{key}["))]
    if selected or report.problems:
        return selected
    import difflib  # late, because only a mistyped key needs it

    names = {part for value in report.values for part in _prefixes(value.key)}
    near = difflib.get_close_matches(key, sorted(names), n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `bulkhead config` shows all keys"
    raise BadInput(f"cannot show {key}: nothing is set there{hint}")


def _prefixes(key: str) -> list[str]:
    return [key[:position] for position, char in enumerate(key) if char in ".["] + [key]


def _print_files(files: list[ConfigFile], report: ConfigReport) -> None:
    rows = [[str(number), file.status, _short(file.path, report)] for number, file in enumerate(files, 1)]
    head, *lines = table(["", "STATUS", "FILE"], rows, right=(0,)).split("\n")
    click.echo(colourise(head, "bold", sys.stdout), color=True)
    for line, file in zip(lines, files, strict=True):
        colour = _COLOURS.get(file.status)
        # Only the number is to the left of the status, so the first match is the status.
        text = line.replace(file.status, colourise(file.status, colour, sys.stdout), 1) if colour else line
        click.echo(text if colour else colourise(line, "dim", sys.stdout), color=True)


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
    click.echo(colourise(head, "bold", sys.stdout), color=True)
    for line, value in zip(lines, values, strict=True):
        click.echo(line if value.file else colourise(line, "dim", sys.stdout), color=True)


def _print_summary(report: ConfigReport) -> None:
    rows = [[f"{kind} model", name] for kind, name in report.models.items()]
    rows.append(["data directory", report.data_dir])
    click.echo()
    for name, value in rows:
        click.echo(f"{colourise(f'{name:<14}', 'bold', sys.stdout)}  {value}", color=True)
    if report.hint:
        note(report.hint)


def _origin(value: ConfigValue, report: ConfigReport) -> str:
    if not value.file:
        return "default"
    return f"{_short(value.file, report)}:{value.line}" if value.line else _short(value.file, report)


def _short(path: str, report: ConfigReport) -> str:
    """Return a path relative to the workspace, or with `~` for the home directory."""
    home = os.environ.get("HOME", "")
    for parent, name in ((report.workspace, ""), (home, "~/")):
        if parent and path.startswith(f"{parent.rstrip('/')}/"):
            return name + path[len(parent.rstrip("/")) + 1 :]
    return path
