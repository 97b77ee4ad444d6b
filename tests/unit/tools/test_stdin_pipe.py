"""Children that take input and children that serve: bounded, never blocking, not counted as tools."""

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


async def test_what_is_written_comes_back_in_pieces_and_the_end_is_told(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:
        pieces: list[bytes] = []
        ended = asyncio.Event()

        def take(data: bytes) -> None:
            pieces.append(data)
            if not data:
                ended.set()

        child = await place.children.start(["cat"], env=_env(), cwd=tmp_path, stdin=True, on_stdout=take)
        try:
            sent = os.urandom(3 * 1024 * 1024)  # far more than a pipe holds
            child.write(sent[:10])
            child.write(sent[10:])
            await eventually(lambda: child.unsent == 0, what="the child took all")
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


async def test_the_end_of_the_input_waits_for_what_was_written(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:
        child = await place.children.start(["wc", "-c"], env=_env(), cwd=tmp_path, stdin=True)
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


async def test_a_child_that_does_not_read_costs_bounded_memory_and_blocks_nobody(tmp_path: Path) -> None:
    async with bench(tmp_path, limits=Limits(child_unsent_max_bytes=1_000_000)) as place:
        child = await place.children.start(["sleep", "1000"], env=_env(), cwd=tmp_path, stdin=True)
        try:
            child.write(bytes(900_000))
            with pytest.raises(BrokenPipeError, match="does not read"):
                child.write(bytes(900_000))
            assert 0 < child.unsent <= 1_000_000
        finally:
            await child.end()


async def test_a_write_to_a_child_that_died_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:
        child = await place.children.start(["cat"], env=_env(), cwd=tmp_path, stdin=True)
        try:
            assert not child.is_ending
            os.kill(child.pid, signal.SIGKILL)
            assert await child.exited() == -signal.SIGKILL
            with pytest.raises(BrokenPipeError):
                child.write(b"anybody there?")
        finally:
            await child.end()
        assert child.is_ending


async def test_without_input_nothing_can_be_written(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:
        child = await place.children.start(["cat"], env=_env(), cwd=tmp_path)
        try:
            with pytest.raises(BrokenPipeError, match="no input"):
                child.write(b"x")
            assert await child.exited() == 0  # its input is empty
        finally:
            await child.end()


async def test_a_service_does_not_count_but_ends_with_the_others(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:
        child = await place.children.start(["cat"], env=_env(), cwd=tmp_path, stdin=True, is_service=True)
        assert place.children.count == 0
        held = place.process(child.pid)
        tool = await place.children.start(["sleep", "1000"], env=_env(), cwd=tmp_path)
        assert place.children.count == 1
        await tool.end()
        assert held.is_alive
        await place.children.close()
        assert not held.is_alive
        with pytest.raises(OSError, match="closing"):
            await place.children.start(["true"], env=_env(), cwd=tmp_path)
