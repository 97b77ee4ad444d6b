"""Warm up a template: run everything that workers do for the first time, so that its forks find it done.

The first time leaves things behind in the interpreter: imports, specialised bytecode, cached attribute lookups,
compiled statements, objects made on demand. Made here once they are shared by all workers instead of built in each. So
throwaway workers run here, up to a run and an orderly end. Ending with idle workers, after the cache of attribute
lookups was cleared, was measured to save 0.15 MB per worker (Python 3.11).
"""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from protocol.base import failpoints
from worker.zygote.code_layout import code_run_by, relocate_code
from worker.zygote.heap import fill_holes
from worker.zygote.huge_pages import collapse, huge_ranges
from worker.zygote.immortal import make_immortal
from worker.zygote.preload import check_clean, open_descriptors
from worker.zygote.throwaway import IdleWorker, WorkerWithRun, run_throwaway

_PROVIDERS = ("openai-compat", "", "openai", "openai-compat", "anthropic")
"""What answers the prompts of throwaway workers, before their code is relocated and again after that."""
_IDLE_WORKERS = 3


def warm_up() -> Iterator[None]:
    """Warm up in steps of some ten milliseconds, freeze what was made, and move it to huge pages.

    Leaves no thread, loop, descriptor or file. Raises WarmUpFailed, NotClean. Signals that workers handle must be
    blocked.
    """
    gc.disable()  # until everything is frozen, as in `preload`
    gc.unfreeze()  # so that the functions to relocate are found
    before = open_descriptors()
    from worker.zygote import warm_models, warm_store

    yield
    warm_models.warm_up()
    yield
    warm_store.warm_up_store()
    yield
    yield from _warm_up_worker()
    check_clean(before)
    yield from make_immortal()
    fill_holes()
    gc.freeze()
    gc.enable()
    for address in huge_ranges(Path("/proc/self/maps").read_text()):
        yield
        collapse(address)


def _warm_up_worker() -> Iterator[None]:
    failpoints_socket = os.environ.pop(failpoints.ENVIRONMENT, None)  # meant for the workers of a test
    try:
        for provider in _PROVIDERS:
            run_throwaway(WorkerWithRun, provider)
            yield
        idle = code_run_by(lambda: run_throwaway(IdleWorker))
        relocate_code([*idle, *code_run_by(lambda: run_throwaway(WorkerWithRun, _PROVIDERS[0]))])
        yield
        for provider in _PROVIDERS:
            run_throwaway(WorkerWithRun, provider)
            yield
        # So that the cache holds what idle workers look up: each other lookup writes to it. Python 3.13 renamed it.
        (getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache)()
        for _ in range(_IDLE_WORKERS):
            run_throwaway(IdleWorker)
            yield
    finally:
        if failpoints_socket is not None:
            os.environ[failpoints.ENVIRONMENT] = failpoints_socket
