"""What the zygote imports and warms, and the proof that it left no thread, socket or loop behind."""

import gc
import importlib
import os

MODULES = (
    "asyncio",
    "msgspec",
    "sqlite3",
    "sqlalchemy",
    "sqlalchemy.dialects.sqlite",
    "zmq",
    "setproctitle",
    "worker.main",
    "worker.app",
    "worker.models.warm",
)


class NotClean(Exception):
    """The warm process has something that a fork must not inherit."""


def preload() -> None:
    """Import and warm everything a worker needs, then freeze it. Raises NotClean, ImportError."""
    before = open_descriptors()
    for name in MODULES:
        importlib.import_module(name)
    from worker.models.warm import warm_up
    from worker.store.warm import warm_up_store

    warm_up()
    warm_up_store()
    check_clean(before)
    # Frozen objects are not looked at by the collector, so their pages stay shared with every fork.
    gc.collect()
    gc.freeze()


def open_descriptors() -> set[int]:
    """The descriptors of this process."""
    listing = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return {int(name) for name in os.listdir(listing)} - {listing}
    finally:
        os.close(listing)


def check_clean(allowed: set[int]) -> None:
    """Raise NotClean if there is a second thread or a descriptor beyond `allowed`."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise NotClean(f"cannot fork safely: the imports left {threads} threads")
    extra = open_descriptors() - allowed
    if extra:
        names = ", ".join(f"{number} -> {_target(number)}" for number in sorted(extra))
        raise NotClean(f"cannot fork safely: the imports left descriptors open: {names}")


def _target(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return "gone"
