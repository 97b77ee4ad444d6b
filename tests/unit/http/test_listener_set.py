"""All listeners together: what opens, what only is told of, and what makes a start impossible."""

import asyncio
import logging
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from protocol.address import Address, TcpAddress, UnixAddress
from protocol.base.logs import Redactor
from supervisor.config.server_config import ServerConfig
from supervisor.http.listener_set import ListenerSet
from supervisor.http.listeners import ListenFailed
from supervisor.http.messages import Request, Response
from supervisor.runtime import RuntimeRefused


async def nothing(request: Request) -> Response:
    return Response()


def front(root: Path, *addresses: Address, inherited: tuple[socket.socket, ...] = (), **options: Any) -> ListenerSet:
    config = ServerConfig(runtime_dir=root, state_dir=root, listeners=addresses, **options)
    return ListenerSet(
        config=config,
        token_file=root / "token",
        inherited=inherited,
        answer=nothing,
        random=random.Random(1),
        redactor=Redactor(),
        log=logging.getLogger("bulkhead.test"),
    )


async def test_one_listener_that_fails_does_not_keep_the_others_from_opening(tmp_path: Path) -> None:
    door = front(tmp_path, UnixAddress(Path("/nowhere/s")), UnixAddress(tmp_path / "s"))
    door.open()
    assert door.names == [f"unix://{tmp_path / 's'}"]
    await door.close()
    assert not (tmp_path / "s").exists()


async def health(path: Path) -> bytes:
    """The first line of an answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    try:
        return await reader.readline()
    finally:
        writer.close()


async def test_a_socket_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    door = front(tmp_path, UnixAddress(path), TcpAddress("127.0.0.1", 0))
    door.open()
    before = path.lstat().st_ino
    door.restore()
    assert path.lstat().st_ino == before, "nothing is missing"
    reader, writer = await asyncio.open_unix_connection(path)
    for _ in range(3):
        path.unlink()
        door.restore()
        assert path.lstat().st_mode & 0o777 == 0o600
        assert b" 200 " in await health(path)
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 200 " in await reader.readline(), "who was connected stays connected"
    path.unlink()
    path.write_text("not ours")
    door.restore()
    assert path.read_text() == "not ours"
    await door.close()
    assert await reader.read() == b"\r\n".join([b"Content-Length: 0", b"", b""])
    writer.close()
    assert path.exists()
    path.unlink()
    door.restore()
    assert not path.exists(), "a server that leaves comes not back"


async def test_no_listener_at_all_makes_a_start_impossible(tmp_path: Path) -> None:
    with pytest.raises(ListenFailed, match=r"/nowhere.*/neither"):
        front(tmp_path, UnixAddress(Path("/nowhere/s")), UnixAddress(Path("/neither/s"))).open()


async def test_tcp_makes_a_token(tmp_path: Path) -> None:
    door = front(tmp_path, TcpAddress("127.0.0.1", 0))
    door.open()
    assert len((tmp_path / "token").read_text().strip()) == 64
    await door.close()


async def test_inherited_socket_takes_the_place_of_the_default(tmp_path: Path) -> None:
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(tmp_path / "given"))
    given.listen()
    door = front(tmp_path, UnixAddress(tmp_path / "s"), inherited=(given,), has_default_listener=True)
    door.open()
    assert door.names == [f"unix://{tmp_path / 'given'}"]
    await door.close()
    assert (tmp_path / "given").exists()  # the manager's


async def test_X02_inherited_socket_open_to_others_needs_a_token(tmp_path: Path) -> None:
    given = socket.create_server(("0.0.0.0", 0))
    door = front(tmp_path, inherited=(given,), no_auth=True)
    with pytest.raises(RuntimeRefused, match="loopback"):
        door.open()
    given.close()
