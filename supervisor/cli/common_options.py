"""Provide what the commands share: common options, finding the server and the workspace, and printing errors."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from protocol.address import Address, TcpAddress
from protocol.api.workspace import WorkerStatus
from protocol.errors import BadInput, BulkheadError, NotFound
from protocol.workspace_mark import read_mark
from supervisor.cli.terminal.formatting import note
from supervisor.client.address import default_address, parse_server_address
from supervisor.client.api import Api

T = TypeVar("T")
Command = Callable[..., Any]

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """Address and token of the server to talk to. `is_default`: no address was given explicitly."""

    address: Address
    token: str
    is_default: bool

    def api(self) -> Api:
        """Return a new client of this server."""
        return Api(self.address, token=self.token)


def server_options(command: Command) -> Command:
    """Add --host and --token-file."""
    command = click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File with the token for TCP; otherwise BULKHEAD_TOKEN.",
    )(command)
    return click.option("-H", "--host", metavar="URL", help="unix:///PATH or tcp://HOST:PORT of the server.")(command)


def workspace_options(command: Command) -> Command:
    """Add --cwd and --workspace."""
    command = click.option("-w", "--workspace", metavar="ID", help="Workspace by id, or by the beginning of its id.")(
        command
    )
    return click.option(
        "-C",
        "--cwd",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Workspace of this directory; default: the current directory.",
    )(command)


def json_option(command: Command) -> Command:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")(command)


def find_server(host: str | None, token_file: Path | None) -> ServerTarget:
    """Return the server named by option or environment, else the default one. Raises BadInput."""
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
    """Return the absolute path of the workspace directory. Raises BadInput when it does not exist."""
    path = Path(os.path.abspath(cwd or Path.cwd()))
    if not path.is_dir():
        raise BadInput(f"cannot use {path} as a workspace: there is no such directory")
    return path


async def find_worker(api: Api, cwd: Path | None, workspace: str | None) -> WorkerStatus:
    """Return the workspace that the options select. Raises NotFound, BadInput.

    Never makes a new one; a directory that has the mark of a workspace, but another path than the server knows, is
    registered under its path first.
    """
    workers = await api.workers()
    if workspace:
        matches = [worker for worker in workers if worker.id.startswith(workspace)]
        exact = [worker for worker in matches if worker.id == workspace]
        if len(exact or matches) > 1:
            raise BadInput(f"cannot tell which workspace {workspace!r} is: {len(matches)} ids begin with it")
        if not matches:
            raise NotFound(f"there is no workspace {workspace!r}; `bulkhead ps` lists them", code="workspace_unknown")
        return (exact or matches)[0]
    path = directory(cwd)
    is_moved = all(worker.path not in _spellings(path) for worker in workers) and _has_mark(path)
    if is_moved:
        await api.create_workspace(path)
    for worker in await api.workers() if is_moved else workers:
        if worker.path in _spellings(path):
            return worker
    raise NotFound(
        f"{path} is not a workspace yet: `bulkhead run` there creates it; `bulkhead ps` lists the existing ones",
        code="workspace_unknown",
    )


def without_directory(workers: Sequence[WorkerStatus]) -> list[WorkerStatus]:
    """Return the workspaces that have no directory at their path, as this machine sees it."""
    return [worker for worker in workers if not os.path.isdir(worker.path)]


def at_path(workers: Sequence[WorkerStatus], text: str) -> WorkerStatus | None:
    """Return the workspace of a path, which may be gone, or None. Raises BadInput when only a path can be meant."""
    path = os.path.abspath(os.path.expanduser(text))
    for worker in workers:
        if worker.path in _spellings(Path(path)):
            return worker
    if "/" in text or os.path.isdir(path):
        raise BadInput(f"{path} is not a workspace; `bulkhead ps` lists them")
    return None


def _has_mark(path: Path) -> bool:
    """Return whether a directory says that it is a workspace."""
    return read_mark(path / ".bulkhead") is not None


def _spellings(path: Path) -> tuple[str, str]:
    return str(path), os.path.realpath(path)


def perform(work: Coroutine[Any, Any, int | None]) -> None:
    """Run a command and exit with its exit code. An expected error becomes one line and exit code 1."""
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
    """Print the error, with a hint where one helps, and exit with code 1."""
    hint = ""
    if error.code == "unauthorized":
        hint = "; pass it with --token-file or BULKHEAD_TOKEN (it is in the file `token` of the runtime directory)"
    note(f"bulkhead: {error.message}{hint}", "red")
    sys.exit(EXIT_FAILED)


def silence_stdout() -> None:
    """Discard further output, so that the interpreter does not report the closed pipe when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: object) -> None:
    """Print one JSON object on one line."""
    click.echo(msgspec.json.encode(value).decode())
