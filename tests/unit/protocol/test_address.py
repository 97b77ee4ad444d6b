"""Addresses of the server: parsing, printing, defaults."""

from pathlib import Path

import pytest

from protocol.address import (
    SOCKET_PATH_MAX,
    Address,
    TcpAddress,
    UnixAddress,
    default_address,
    default_runtime_dir,
    first_directory,
    parse_address,
    path_bytes,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:///run/b.sock", UnixAddress(Path("/run/b.sock"))),
        ("unix:///a//b/", UnixAddress(Path("/a/b"))),
        ("tcp://127.0.0.1:8600", TcpAddress("127.0.0.1", 8600)),
        ("tcp://127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("tcp://[::1]:8600", TcpAddress("::1", 8600)),
        ("tcp://::1:8600", TcpAddress("::1", 8600)),
        ("tcp://example.org:80/path:1", TcpAddress("example.org", 80)),
        ("tcp://h:00080", TcpAddress("h", 80)),
    ],
)
async def test_valid_addresses_are_parsed(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost:80", "http://h:1", "TCP://h:1", "unix:/run/b.sock", "unix://b.sock", "unix://"),
        *("tcp://", "tcp://h", "tcp://:80", "tcp://[]:80", "tcp://h:", "tcp://h:65536", "tcp://h:-1", "tcp://h:+1"),
        *("tcp://h:1_0", "tcp://h:8.0", "tcp://h:\u0663", "tcp://h:" + "9" * 5000),
    ],
)
async def test_other_texts_are_not_addresses(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize("text", ["unix:///run/b.sock", "tcp://127.0.0.1:8600", "tcp://[::1]:0", "tcp://h:1"])
async def test_an_address_prints_as_it_was_parsed(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.8.9.1", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("lo.example", False)],
)
async def test_loopback_addresses_are_recognised(host: str, expected: bool) -> None:
    assert TcpAddress(host, 80).is_loopback is expected


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "/tmp/bulkhead-7"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/bulkhead"),
        ({"XDG_RUNTIME_DIR": "/run/user/7", "RUNTIME_DIRECTORY": "/run/b:/run/c"}, "/run/b"),
        ({"RUNTIME_DIRECTORY": ""}, "/tmp/bulkhead-7"),
    ],
)
async def test_the_default_runtime_directory(env: dict[str, str], expected: str) -> None:
    assert default_runtime_dir(env, uid=7) == Path(expected)


async def test_the_default_socket_is_in_the_runtime_directory_of_the_user_unless_its_path_is_too_long() -> None:
    runtime_dir = Path("/run/b")
    fitting = "/" + "x" * (SOCKET_PATH_MAX - len("//bulkhead.sock"))
    assert default_address(runtime_dir, {}).path == Path("/run/b/bulkhead.sock")
    assert default_address(runtime_dir, {"XDG_RUNTIME_DIR": fitting}).path == Path(fitting, "bulkhead.sock")
    assert default_address(runtime_dir, {"XDG_RUNTIME_DIR": fitting + "x"}).path == Path("/run/b/bulkhead.sock")


async def test_paths_are_measured_in_bytes() -> None:
    assert path_bytes(Path("/\u00e4\udcff")) == 4


async def test_the_first_of_several_directories_counts() -> None:
    assert first_directory("/a:/b") == Path("/a")
    assert first_directory(":/b") is None
