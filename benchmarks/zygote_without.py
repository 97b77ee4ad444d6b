"""Be a zygote without one of its measures: warm up, fork idle workers, print what they cost as JSON.

`python -m benchmarks.zygote_without NAME`; an empty NAME leaves nothing out.
"""

import os
import sys

FORKS = 5


def main() -> int:
    """Print the median private memory of an idle worker in kB, and the fastest fork in milliseconds."""
    left_out = sys.argv[1]
    os.environ.setdefault("SPT_NOENV", "1")
    import json
    import signal
    import statistics

    from worker.zygote import preload, warm_up
    from worker.zygote.template import BLOCKED

    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    if left_out == "code_layout":
        warm_up.relocate_code = lambda codes: None
    if left_out == "heap":
        warm_up.fill_holes = lambda: None
    if left_out == "huge_pages":
        warm_up.huge_ranges = lambda maps: iter(())
    preload.preload()
    if left_out == "immortal":
        warm_up.make_immortal = lambda: iter(())
    if left_out != "warm_up":
        for _ in warm_up.warm_up():
            pass
    private_kb, fork_s = zip(*(_fork() for _ in range(FORKS)), strict=True)
    print(json.dumps({"private_kb": statistics.median(private_kb), "fork_ms": min(fork_s) * 1000}))
    return 0


def _fork() -> tuple[int, float]:
    """Fork an idle worker; return its private memory in kB, and how long the fork took in seconds."""
    import time

    from worker.zygote import throwaway

    reader, writer = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:

        def report(link: throwaway.IdleLink) -> None:
            with open("/proc/self/smaps_rollup") as file:
                private_kb = sum(int(line.split()[1]) for line in file if line.startswith("Private_"))
            os.write(writer, str(private_kb).encode())
            finish(link)

        finish, throwaway.IdleLink.finish = throwaway.IdleLink.finish, report
        throwaway.run_throwaway(throwaway.IdleWorker)
        os._exit(0)
    took_s = time.monotonic() - began
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        private_kb = int(file.read())
    os.waitpid(pid, 0)
    return private_kb, took_s


if __name__ == "__main__":
    sys.exit(main())
