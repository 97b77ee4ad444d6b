"""Be a zygote without one of its measures: warm up, fork idle workers, print what they cost as JSON.

`python -m benchmarks.zygote_without NAME`; an empty NAME leaves nothing out. Nothing but `os` and `sys` is imported
before the fork hooks are filtered, as in worker/zygote/__main__.py.
"""

import os
import sys

FORKS = 5


def main() -> int:
    """Print the median private memory of an idle worker in kB, and the fastest fork in milliseconds."""
    left_out = sys.argv[1]
    os.environ.setdefault("SPT_NOENV", "1")
    if left_out != "fork_hooks":
        from worker.zygote.fork_hooks import keep_forks_quiet

        keep_forks_quiet()

    import gc
    import json
    import statistics
    from pathlib import Path

    gc.disable()  # as `preload` does before it imports
    from worker.zygote import heap, huge_pages, preload, warm_up

    if left_out == "code_layout":
        warm_up.relocate_code = lambda codes: None
    if left_out == "heap":
        heap.fill_holes = lambda: None
    preload.preload()
    if left_out != "huge_pages":
        for address in huge_pages.huge_ranges(Path("/proc/self/maps").read_text()):
            huge_pages.collapse(address)
    private_kb, fork_s = zip(*(_fork() for _ in range(FORKS)), strict=True)
    print(json.dumps({"private_kb": statistics.median(private_kb), "fork_ms": min(fork_s) * 1000}))
    return 0


def _fork() -> tuple[int, float]:
    """Fork an idle worker; return its private memory in kB, and how long the fork took in seconds."""
    import time

    from worker.zygote import warm_up
    from worker.zygote.fork_hooks import renew_random

    reader, writer = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        renew_random()

        def report(link: warm_up.IdleLink) -> None:
            with open("/proc/self/smaps_rollup") as file:
                private_kb = sum(int(line.split()[1]) for line in file if line.startswith("Private_"))
            os.write(writer, str(private_kb).encode())
            finish(link)

        finish, warm_up.IdleLink.finish = warm_up.IdleLink.finish, report
        warm_up.run_throwaway(warm_up.IdleWorker)
        os._exit(0)
    took_s = time.monotonic() - began
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        private_kb = int(file.read())
    os.waitpid(pid, 0)
    return private_kb, took_s


if __name__ == "__main__":
    sys.exit(main())
