"""Test that log lines are written in order, and that a reader who does not read stops nobody (H07)."""

import fcntl
import logging
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.base.log_handler import DescriptorHandler, lines_lost, write_line

PIPE_BYTES = 4096
END = b"the end"


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Yield the ends of a pipe whose buffer is full."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.write(writer, b"x" * PIPE_BYTES)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def logger_of(handler: logging.Handler) -> logging.Logger:
    log = logging.Logger("test")
    log.addHandler(handler)
    return log


def _read_to_the_end(reader: int) -> None:
    text = b""
    while END not in text:
        text = text[-len(END) :] + os.read(reader, 65536)


def drain(reader: int, until: bytes) -> bytes:
    text = b""
    while until not in text:
        text += os.read(reader, 65536)
    return text


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_H07_lines_to_a_reader_who_does_not_read_are_dropped_and_reported(kind: str) -> None:
    reader, writer = pty.openpty() if kind == "terminal" else os.pipe()
    handler = DescriptorHandler(writer, queue_lines=10)
    log = logger_of(handler)
    for number in range(500):
        log.info("%s", f"{number} " + "y" * 1000)
    assert handler.lost > 0
    assert lines_lost(log) == handler.lost
    assert drain(reader, b"y").startswith(b"0 ")
    reading = threading.Thread(target=_read_to_the_end, args=(reader,))
    reading.start()
    handler.close()
    os.write(writer, END)
    reading.join()
    os.close(reader)
    os.close(writer)


def test_H07_the_number_of_lost_lines_is_reported_when_there_is_room_again() -> None:
    with full_pipe() as (reader, writer):
        handler = DescriptorHandler(writer, queue_lines=2)
        log = logger_of(handler)
        for number in range(20):
            log.info("line %d", number)
        lost = handler.lost
        assert lost >= 17
        drain(reader, b"line 1")
        log.info("after")
        text = drain(reader, b"after")
        assert f"{lost} log lines lost".encode() in text
        handler.close()


def test_H07_an_end_does_not_wait_for_the_reader() -> None:
    with full_pipe() as (_, writer):
        handler = DescriptorHandler(writer)
        logger_of(handler).info("never read")
        handler.close()
        write_line(writer, "never read either", is_last=True)


def test_H07_a_file_that_cannot_grow_and_a_reader_that_left_count_as_lost(tmp_path: Path) -> None:
    script = f"""
import logging, os, resource, signal
from protocol.base.log_handler import DescriptorHandler
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
handler = DescriptorHandler(os.open({str(tmp_path / "log")!r}, os.O_WRONLY | os.O_CREAT))
log = logging.Logger("test")
log.addHandler(handler)
for _ in range(20):
    log.info("x" * 99)
assert handler.lost == 10, handler.lost
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "log").stat().st_size == 1000
    reader, writer = os.pipe()
    os.close(reader)
    handler = DescriptorHandler(writer)
    logger_of(handler).info("nobody")
    handler.close()
    assert handler.lost == 1
    os.close(writer)


def test_lines_to_a_file_and_to_a_pipe_keep_their_order(tmp_path: Path) -> None:
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    reader, writer = os.pipe()
    for descriptor in (file, writer):
        handler = DescriptorHandler(descriptor)
        log = logger_of(handler)
        for number in range(100):
            log.info("line %d \ud800", number)
        handler.close()
    expected = b"".join(b"line %d \\ud800\n" % number for number in range(100))
    assert (tmp_path / "log").read_bytes() == expected
    assert os.read(reader, 65536) == expected
    for descriptor in (file, reader, writer):
        os.close(descriptor)


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 1, 2)])
def test_closed_standard_descriptors_are_replaced(tmp_path: Path, closed: tuple[int, ...]) -> None:
    script = f"""
import os
from protocol.base.log_handler import keep_standard_descriptors
keep_standard_descriptors()
opened = os.open({str(tmp_path / "file")!r}, os.O_WRONLY | os.O_CREAT)
os.write(opened, str(opened).encode())
"""
    redirections = " ".join(f"{number}>&-" for number in closed)
    subprocess.run(["bash", "-c", f'exec "{sys.executable}" -c "$0" {redirections}', script], check=True)
    assert int((tmp_path / "file").read_text()) > 2
