"""Test that a warm template has its private memory in huge pages before it forks the first worker."""

import ctypes
import mmap
import tempfile
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.harness.server import SharedZygote
from tests.support.processes import descendants
from worker.zygote.huge_pages import HUGE_BYTES, collapse, huge_ranges

MAPS = """\
55d000000000-55d000001000 r-xp 00000000 fe:00 1234  /usr/bin/python3.11
55d0001ff000-55d000601000 rw-p 00000000 00:00 0     [heap]
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
7f0000300000-7f0000500000 rw-p 00000000 00:00 0
7f0001000000-7f0001400000 rw-p 00000000 fe:00 1235  /usr/lib/libx.so
7f0002000000-7f0002400000 rw-s 00000000 00:01 99    /dev/zero (deleted)
7f0003000000-7f0003400000 r--p 00000000 00:00 0
7ffc00000000-7ffc00400000 rw-p 00000000 00:00 0     [stack]
"""


def test_only_private_writable_memory_is_selected() -> None:
    assert [hex(address) for address in huge_ranges(MAPS)] == ["0x55d000200000", "0x55d000400000", "0x7f0000000000"]


def _can_collapse() -> bool:
    with mmap.mmap(-1, 2 * HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"x" * len(memory)
        view = ctypes.c_char.from_buffer(memory)
        begin = ctypes.addressof(view)
        done = collapse(begin + -begin % HUGE_BYTES)
        assert memory[:] == b"x" * len(memory)
        del view
    return done


async def test_a_warm_template_has_its_memory_in_huge_pages() -> None:
    if not _can_collapse():
        pytest.skip("needs a kernel that makes huge pages of small ones: Linux 6.1, transparent huge pages built in")
    with tempfile.TemporaryDirectory() as root:
        zygote = SharedZygote(Path(root))
        try:
            zygote.wait_ready()
            await eventually(lambda: len(descendants(zygote.popen.pid)) == 1, what="the end of the first template")
            [template] = descendants(zygote.popen.pid)
            rollup = Path(f"/proc/{template}/smaps_rollup").read_text()
            assert int(rollup.partition("AnonHugePages:")[2].split()[0]) > 10_000
        finally:
            zygote.close()
