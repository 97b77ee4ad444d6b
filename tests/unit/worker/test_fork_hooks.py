"""Forks of the zygote skip the hooks of libraries that they do not need."""

import os
import random
import subprocess
import sys

CODE = """
import os
from worker.zygote.fork_hooks import keep_forks_quiet, renew_random
keep_forks_quiet()
import concurrent.futures.thread, logging, random, threading
ran = []
os.register_at_fork(after_in_child=lambda: ran.append(1))  # a hook that is not on the list
random.seed(1)
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    renew_random()
    logging.getLogger("x").warning("a lock is free")
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: 7).result() == 7
    assert threading.current_thread() is threading.main_thread()
    os.write(write, f"{len(ran)} {random.random()}".encode())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(os.read(read, 100).decode())
"""


def test_a_fork_without_the_hooks_works_and_has_its_own_random_numbers() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE], capture_output=True, text=True, check=True, env=dict(os.environ), timeout=30
    )
    hooks, number = done.stdout.split()
    assert hooks == "1", "the hook that is not on the list did not run"
    assert float(number) != random.Random(1).random()
