"""Test that the warm-up leaves nothing open, and that a worker imports no HTTP or model library before it needs one."""

import json
import subprocess
import sys

_PROBE = """
import json, os
def state():
    fds = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds[fd] = os.readlink("/proc/self/fd/" + fd)
        except OSError:
            pass  # the descriptor of the listing itself
    return {"threads": len(os.listdir("/proc/self/task")), "fds": fds}
before = state()
from worker.zygote.warm_models import warm_up
warm_up()
import asyncio, time
for _ in range(200):  # a thread that has ended may still be listed by the kernel
    if state()["threads"] == 1:
        break
    time.sleep(0.01)
try:
    asyncio.get_running_loop()
    loop = True
except RuntimeError:
    loop = False
import sys
print(json.dumps({"before": before, "after": state(), "loop": loop}))
"""

_IMPORT_PROBE = """
import sys
import worker.main, worker.app, worker.runs.credentials
heavy = ("aiohttp", "anthropic", "httpx2", "openai", "pydantic", "pydantic_ai")
print([name for name in heavy if name in sys.modules])
"""


def test_warming_up_leaves_no_thread_socket_or_loop() -> None:
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=50, check=True)
    report = json.loads(done.stdout)
    assert report["after"]["threads"] == 1
    assert report["before"]["fds"] == report["after"]["fds"]
    assert not report["loop"]


def test_a_worker_starts_without_http_and_model_libraries() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORT_PROBE], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.strip() == "[]"
