"""Objects of a template are made immortal where the interpreter has immortal objects, and stay usable everywhere."""

import subprocess
import sys

import pytest

CODE = """
import gc, sys
from worker.zygote.immortal import make_immortal

class Thing:
    def __init__(self): self.names = {"a": [1.5, ("b", b"c")]}
    def method(self, x): return x + 0.25

thing = Thing()
for _ in make_immortal(): pass
marked = [sys.getrefcount(each) for each in (thing, Thing, thing.names, thing.names["a"], Thing.method,
          thing.names["a"][0], Thing.method.__code__, Thing.method.__code__.co_consts)]
before = marked[:]
thing.names["a"].append("new")
thing.names = {}
del thing
assert Thing().method(1) == 1.25
fresh = Thing()
assert sys.getrefcount(fresh) < 10
gc.collect()
print(*marked)
"""


async def test_everything_reachable_becomes_immortal_and_new_objects_do_not() -> None:
    out = subprocess.run([sys.executable, "-P", "-c", CODE], capture_output=True, text=True, check=True, timeout=30)
    counts = {int(word) for word in out.stdout.split()}
    if sys.version_info[:2] in ((3, 12), (3, 13)):
        assert counts == {0xFFFF_FFFF}
    else:
        assert max(counts) < 1000


@pytest.mark.skipif(sys.version_info[:2] not in ((3, 12), (3, 13)), reason="needs an interpreter with immortal objects")
async def test_the_walk_leaves_no_memory_behind() -> None:
    code = "import gc, sys\nfrom worker.zygote.immortal import make_immortal\nfor _ in make_immortal(): pass\n"
    code += "print(max(sys.getsizeof(each) for each in gc.get_objects() if type(each) in (set, dict)))"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert int(out.stdout) < 1_000_000
