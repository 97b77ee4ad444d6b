"""What all commands share: their options, the way to the server, the way to a workspace, and errors as one line."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from protocol.address import Address, TcpAddress
from protocol.api.workspace import WorkerStatus
from protocol.errors import BadInput, BulkheadError, NotFound
from supervisor.cli.terminal.formatting import note
from supervisor.client.address import default_address, parse_server_address
from supervisor.client.api import Api

T = TypeVar("T")
Command = Callable[..., Any]

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """Where the server was said to be. `is_default`: nobody said anything."""

    address: Address
    token: str
    is_default: bool

    def api(self) -> Api:
        """A new client of it."""
        return Api(self.address, token=self.token)


def server_options(command: Command) -> Command:
    """--host and --token-file."""
    command = click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File with the token for TCP; otherwise BULKHEAD_TOKEN.",
    )(command)
    return click.option("-H", "--host", metavar="URL", help="unix:///PATH or tcp://HOST:PORT of the server.")(command)


def workspace_options(command: Command) -> Command:
    """--cwd and --workspace."""
    command = click.option("-w", "--workspace", metavar="ID", help="Workspace by id (its first letters are enough).")(
        command
    )
    return click.option(
        "-C",
        "--cwd",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Workspace of this directory; default: here.",
    )(command)


def json_option(command: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(command)


def find_server(host: str | None, token_file: Path | None) -> ServerTarget:
    """The server that was named by option or environment, or the default one. Raises BadInput."""
    named = host or os.environ.get("BULKHEAD_HOST", "")
    address = parse_server_address(named) if named else default_address(os.environ)
    token = os.environ.get("BULKHEAD_TOKEN", "")
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read the token file {token_file}: {error}") from None
    if token and not (token.isascii() and token.isprintable()):
        raise BadInput("cannot use this token: it must be one word of ASCII characters")
    return ServerTarget(address, token if isinstance(address, TcpAddress) else "", not named)


def directory(cwd: Path | None) -> Path:
    """The workspace directory that is meant. Raises BadInput."""
    path = Path(os.path.abspath(cwd or Path.cwd()))
    if not path.is_dir():
        raise BadInput(f"cannot use {path} as a workspace: there is no such directory")
    return path


async def find_worker(api: Api, cwd: Path | None, workspace: str | None) -> WorkerStatus:
    """The workspace that the options mean, without making one. Raises NotFound, BadInput."""
    workers = await api.workers()
    if workspace:
        found = [worker for worker in workers if worker.id.startswith(workspace)]
        exact = [worker for worker in found if worker.id == workspace]
        if len(exact or found) > 1:
            raise BadInput(f"cannot tell which workspace {workspace!r} is: {len(found)} ids begin like that")
        if not found:
            raise NotFound(f"there is no workspace {workspace!r}; `bulkhead ps` lists them", code="workspace_unknown")
        return (exact or found)[0]
    path = directory(cwd)
    for worker in workers:
        if worker.path in _spellings(path):
            return worker
    raise NotFound(
        f"{path} is no workspace yet: `bulkhead run` makes it one; `bulkhead ps` lists those there are",
        code="workspace_unknown",
    )


def _spellings(path: Path) -> tuple[str, str]:
    return str(path), os.path.realpath(path)


def perform(work: Coroutine[Any, Any, int | None]) -> None:
    """Run a command's work and leave with its exit code. An expected error becomes one line and exit code 1."""
    try:
        code = asyncio.run(work) or 0
    except BulkheadError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        silence_stdout()
        sys.exit(EXIT_FAILED)
    sys.exit(code)


def fail(error: BulkheadError) -> None:
    """Say what went wrong and what would be right, and leave."""
    hint = ""
    if error.code == "unauthorized":
        hint = "; give it with --token-file or BULKHEAD_TOKEN (the server keeps it in `token` of its runtime directory)"
    note(f"bulkhead: {error.message}{hint}", "red")
    sys.exit(EXIT_FAILED)


def silence_stdout() -> None:
    """Nobody reads our output any more: keep the interpreter from complaining about that at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: object) -> None:
    """One JSON object on one line."""
    click.echo(msgspec.json.encode(value).decode())
