"""Test child processes with input and service processes: bounded, never blocking, not counted as tools."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from protocol.limits import Limits
from tests.support.eventually import eventually
from tests.support.harness.tool_bench import bench


def _env() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


async def test_output_is_passed_on_in_pieces_followed_by_its_end(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        pieces: list[bytes] = []
        ended = asyncio.Event()

        def receive(data: bytes) -> None:
            pieces.append(data)
            if not data:
                ended.set()

        child = await tools.children.start(["cat"], env=_env(), cwd=tmp_path, stdin=True, on_stdout=receive)
        try:
            sent = os.urandom(3 * 1024 * 1024)  # far more than a pipe holds
            child.write(sent[:10])
            child.write(sent[10:])
            await eventually(lambda: child.unsent == 0, what="the child to read all input")
            child.close_stdin()
            async with asyncio.timeout(20):
                await ended.wait()
            assert b"".join(pieces) == sent
            assert pieces.count(b"") == 1
            assert pieces[-1] == b""
            assert child.stdout.total_bytes == 0
            assert await child.exited() == 0
            with pytest.raises(BrokenPipeError):
                child.write(b"more")
        finally:
            await child.end()


async def test_the_input_is_closed_after_everything_was_written(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        child = await tools.children.start(["wc", "-c"], env=_env(), cwd=tmp_path, stdin=True)
        try:
            child.write(bytes(3 * 1024 * 1024))
            child.finish_stdin()
            with pytest.raises(BrokenPipeError):
                child.write(b"more")
            assert await child.exited_within(20) == 0
            assert await child.drained(20)
            assert int(child.stdout.text()) == 3 * 1024 * 1024
        finally:
            await child.end()


async def test_input_that_a_child_does_not_read_is_bounded_and_does_not_block(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=Limits(child_unsent_max_bytes=1_000_000)) as tools:
        child = await tools.children.start(["sleep", "1000"], env=_env(), cwd=tmp_path, stdin=True)
        try:
            child.write(bytes(900_000))
            with pytest.raises(BrokenPipeError, match="does not read"):
                child.write(bytes(900_000))
            assert 0 < child.unsent <= 1_000_000
        finally:
            await child.end()


async def test_a_write_to_a_dead_child_fails(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        child = await tools.children.start(["cat"], env=_env(), cwd=tmp_path, stdin=True)
        try:
            assert not child.is_ending
            os.kill(child.pid, signal.SIGKILL)
            assert await child.exited() == -signal.SIGKILL
            with pytest.raises(BrokenPipeError):
                child.write(b"hello")
        finally:
            await child.end()
        assert child.is_ending


async def test_a_write_to_a_child_without_input_fails(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        child = await tools.children.start(["cat"], env=_env(), cwd=tmp_path)
        try:
            with pytest.raises(BrokenPipeError, match="no input"):
                child.write(b"x")
            assert await child.exited() == 0  # its input is empty
        finally:
            await child.end()


async def test_a_service_is_not_counted_as_a_tool_and_ends_on_close(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        child = await tools.children.start(["cat"], env=_env(), cwd=tmp_path, stdin=True, is_service=True)
        assert tools.children.count == 0
        service = tools.process(child.pid)
        tool = await tools.children.start(["sleep", "1000"], env=_env(), cwd=tmp_path)
        assert tools.children.count == 1
        await tool.end()
        assert service.is_alive
        await tools.children.close()
        assert not service.is_alive
        with pytest.raises(OSError, match="closing"):
            await tools.children.start(["true"], env=_env(), cwd=tmp_path)
