"""Confine a child with Landlock: a thread gives up rights over files for good, and its children have no more.

Three system calls, made through ctypes. They restrict the calling thread only: the worker starts a tool's command from
a thread that has restricted itself, and remains unrestricted.
"""

import contextlib
import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

ABI_MIN = 3
"""Linux 6.2 and later: before it, a file could be truncated without the right to write it."""
_ABI_SCOPES = 6

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _TRUNCATE = 1 << 1, 1 << 2, 1 << 14
_MAKE_DEVICES = 1 << 6 | 1 << 11
_IN_DIRECTORIES = sum(1 << bit for bit in (4, 5, 7, 8, 9, 10, 12, 13))  # remove, create, and move to another directory
READ = _READ_FILE
CHANGE = READ | _WRITE_FILE | _TRUNCATE | _IN_DIRECTORIES
_OF_FILES = _WRITE_FILE | _READ_FILE | _TRUNCATE
_HANDLED = CHANGE | _MAKE_DEVICES
_SCOPES = 1 << 0 | 1 << 1
"""Abstract sockets of, and signals to, processes outside the confinement."""

_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24
_CAPABILITIES = (16, 17, 19, 21, 22, 38, 39)
"""Of root: modules, raw I/O, ptrace, administration, boot, perfmon, bpf. Each would defeat the confinement."""


class _Attributes(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Return the version of Landlock in this kernel. Raises OSError when it has none."""
    return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))


class Ruleset:
    """The rights that a confined child keeps. Built once, used for one or more commands, closed at the end."""

    def __init__(self, version: int) -> None:
        """Start with no rights at all. Raises OSError."""
        attributes = _Attributes(_HANDLED, 0, _SCOPES if version >= _ABI_SCOPES else 0)
        self._fd = _call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)), _zero())
        os.set_inheritable(self._fd, False)

    def __enter__(self) -> "Ruleset":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def allow(self, access: int, paths: Iterable[Path]) -> None:
        """Allow `READ` or `CHANGE` on these files and below these directories; skip what does not exist.

        The paths must be resolved: a link allows nothing.
        """
        for path in paths:
            try:
                fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
                rule = _Beneath(access if is_directory else access & _OF_FILES, fd)
                _call(_ADD_RULE, ctypes.c_int(self._fd), ctypes.c_int(_PATH_BENEATH), ctypes.byref(rule), _zero())
            except OSError as error:
                if error.errno != errno.EBADFD:  # without a path of its own, such as a pipe
                    raise
            finally:
                os.close(fd)

    def start(self, start: Callable[[], T]) -> T:
        """Call `start` in a thread that is confined to the rules, as is every process that it starts.

        Raises what `start` raises, and OSError. Blocks for as long as `start` does.
        """
        results: list[T] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self._restrict()
                results.append(start())
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="confined", daemon=True)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    def close(self) -> None:
        """Close the descriptor. Started processes stay confined."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _restrict(self) -> None:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        for capability in _CAPABILITIES:
            with contextlib.suppress(OSError):  # only root has them
                _prctl(_PR_CAPBSET_DROP, capability)
        _call(_RESTRICT_SELF, ctypes.c_int(self._fd), _zero())


def _zero() -> ctypes.c_uint32:
    return ctypes.c_uint32(0)


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    return _checked(int(_library().syscall(ctypes.c_long(number), *arguments)))


def _prctl(what: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _checked(int(_library().prctl(ctypes.c_int(what), ctypes.c_ulong(value), zero, zero, zero)))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
