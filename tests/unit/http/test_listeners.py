"""Listening sockets: private, never taken from a live server, replaced after a dead one."""

import os
import socket
import stat
from pathlib import Path

import pytest

from protocol.address import TcpAddress, UnixAddress
from supervisor.http.listeners import ListenFailed, inherited_listener, open_listener


def test_X04_a_socket_is_private_even_with_an_open_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        listener = open_listener(UnixAddress(tmp_path / "s"))
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    listener.socket.close()
    listener.remove_file()
    assert not (tmp_path / "s").exists()


def test_Z02_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    listener = open_listener(UnixAddress(tmp_path / "s"))
    listener.socket.close()


def test_the_socket_of_a_live_server_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(tmp_path / "s"))
        live.listen()
        with pytest.raises(ListenFailed, match="another server answers"):
            open_listener(UnixAddress(tmp_path / "s"))
    assert (tmp_path / "s").exists()


def test_a_file_that_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ListenFailed, match="no socket"):
        open_listener(UnixAddress(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "precious"


def test_a_missing_directory_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ListenFailed, match="there is no directory"):
        open_listener(UnixAddress(tmp_path / "x" / "s"))


def test_the_socket_of_a_later_server_is_not_removed(tmp_path: Path) -> None:
    first = open_listener(UnixAddress(tmp_path / "s"))
    (tmp_path / "s").unlink()
    second = open_listener(UnixAddress(tmp_path / "s"))
    first.remove_file()
    assert (tmp_path / "s").exists()
    first.socket.close()
    second.socket.close()
    second.remove_file()


def test_a_tcp_listener_reports_its_port_and_a_port_in_use_is_refused() -> None:
    listener = open_listener(TcpAddress("127.0.0.1", 0))
    assert isinstance(listener.address, TcpAddress)
    assert listener.address.port > 0
    with pytest.raises(ListenFailed, match="in use"):
        open_listener(listener.address)
    listener.socket.close()


def test_the_file_of_an_inherited_socket_is_not_removed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(tmp_path / "s"))
        given.listen()
        listener = inherited_listener(given)
        assert listener.address == UnixAddress(tmp_path / "s")
        listener.remove_file()
    assert (tmp_path / "s").exists()
