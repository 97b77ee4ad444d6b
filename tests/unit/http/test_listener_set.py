"""All listeners together: which failures are only reported, and which make a start impossible."""

import asyncio
import logging
import random
import socket
from pathlib import Path

import pytest

from protocol.address import Address, TcpAddress, UnixAddress
from protocol.base.logs import Redactor
from supervisor.config.server_config import ServerConfig
from supervisor.http.listener_set import ListenerSet
from supervisor.http.listeners import ListenFailed
from supervisor.http.messages import Request, Response
from supervisor.runtime import RuntimeRefused


async def respond_empty(request: Request) -> Response:
    return Response()


def listener_set(
    root: Path,
    *addresses: Address,
    inherited: tuple[socket.socket, ...] = (),
    no_auth: bool = False,
    has_default_listener: bool = False,
) -> ListenerSet:
    config = ServerConfig(
        runtime_dir=root,
        state_dir=root,
        listeners=addresses,
        no_auth=no_auth,
        has_default_listener=has_default_listener,
    )
    return ListenerSet(
        config=config,
        token_file=root / "token",
        inherited=inherited,
        answer=respond_empty,
        random=random.Random(1),
        redactor=Redactor(),
        log=logging.getLogger("bulkhead.test"),
    )


async def test_one_listener_that_fails_does_not_prevent_the_others(tmp_path: Path) -> None:
    listeners = listener_set(tmp_path, UnixAddress(Path("/nowhere/s")), UnixAddress(tmp_path / "s"))
    listeners.open()
    assert listeners.names == [f"unix://{tmp_path / 's'}"]
    await listeners.close()
    assert not (tmp_path / "s").exists()


async def health_status_line(path: Path) -> bytes:
    """Return the first line of the response to a health check."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    try:
        return await reader.readline()
    finally:
        writer.close()


async def test_a_socket_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listeners = listener_set(tmp_path, UnixAddress(path), TcpAddress("127.0.0.1", 0))
    listeners.open()
    before = path.lstat().st_ino
    listeners.restore()
    assert path.lstat().st_ino == before, "nothing is missing"
    reader, writer = await asyncio.open_unix_connection(path)
    for _ in range(3):
        path.unlink()
        listeners.restore()
        assert path.lstat().st_mode & 0o777 == 0o600
        assert b" 200 " in await health_status_line(path)
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 200 " in await reader.readline(), "open connections stay open"
    path.unlink()
    path.write_text("another file")
    listeners.restore()
    assert path.read_text() == "another file"
    await listeners.close()
    assert await reader.read() == b"\r\n".join([b"Content-Length: 0", b"", b""])
    writer.close()
    assert path.exists()
    path.unlink()
    listeners.restore()
    assert not path.exists(), "a closed server restores nothing"


async def test_a_start_without_any_listener_fails(tmp_path: Path) -> None:
    with pytest.raises(ListenFailed, match=r"/nowhere.*/neither"):
        listener_set(tmp_path, UnixAddress(Path("/nowhere/s")), UnixAddress(Path("/neither/s"))).open()


async def test_a_tcp_listener_makes_a_token(tmp_path: Path) -> None:
    listeners = listener_set(tmp_path, TcpAddress("127.0.0.1", 0))
    listeners.open()
    assert len((tmp_path / "token").read_text().strip()) == 64
    await listeners.close()


async def test_an_inherited_socket_replaces_the_default_listener(tmp_path: Path) -> None:
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(tmp_path / "given"))
    given.listen()
    listeners = listener_set(tmp_path, UnixAddress(tmp_path / "s"), inherited=(given,), has_default_listener=True)
    listeners.open()
    assert listeners.names == [f"unix://{tmp_path / 'given'}"]
    await listeners.close()
    assert (tmp_path / "given").exists()  # it belongs to the service manager


async def test_X02_an_inherited_socket_that_is_open_to_others_needs_a_token(tmp_path: Path) -> None:
    given = socket.create_server(("0.0.0.0", 0))
    listeners = listener_set(tmp_path, inherited=(given,), no_auth=True)
    with pytest.raises(RuntimeRefused, match="loopback"):
        listeners.open()
    given.close()
