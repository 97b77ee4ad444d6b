"""Create a small repository, write the scripts of tasks, and inspect their results."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.clients.http_client import parts_of
from tests.support.harness.server_harness import WorkspaceFixture

CART = '''\
"""A cart of a shop."""


def total(prices, discount=0):
    """The sum of the prices, less a discount in percent."""
    amount = 0
    for price in prices:
        amount = price
    return amount * (100 - discount) / 100


def count_items(cart):
    """How many items there are."""
    return sum(cart.values())
'''
INVOICE = """\
from shop.cart import count_items, total


def invoice(cart, prices):
    items = count_items(cart)
    return f"{items} items: {total(prices):.2f}"
"""
TESTS = """\
import unittest

from shop.cart import count_items, total
from shop.invoice import invoice


class CartTest(unittest.TestCase):
    def test_total(self):
        self.assertEqual(total([1, 2, 3]), 6)
        self.assertEqual(total([100], discount=10), 90)

    def test_count(self):
        self.assertEqual(count_items({"apple": 2, "pear": 1}), 3)

    def test_invoice(self):
        self.assertEqual(invoice({"apple": 2}, [1.5, 1.5]), "2 items: 3.00")


if __name__ == "__main__":
    unittest.main()
"""
FILES = {
    "shop/__init__.py": "",
    "shop/cart.py": CART,
    "shop/invoice.py": INVOICE,
    "tests/__init__.py": "",
    "tests/test_cart.py": TESTS,
    "README.md": "# Shop\n\nRetry delays are in `shop/settings.ini`.\n",
    "shop/settings.ini": "[net]\nretry_delay_s = 7\n",
    ".gitignore": "__pycache__/\n.bulkhead/\n",
}
TEST_COMMAND = f"{sys.executable} -m unittest -q tests.test_cart"


def git(path: Path, *args: str) -> str:
    """Run git in the repository; return its output."""
    names = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {"PATH": os.environ["PATH"], "HOME": str(path), **names}
    return subprocess.run(["git", *args], cwd=path, env=env, check=True, capture_output=True, text=True).stdout


def make_repository(path: Path) -> None:
    """Write the files and commit them."""
    for name, text in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    git(path, "init", "-q", "-b", "main")
    git(path, "add", ".")
    git(path, "commit", "-q", "-m", "A shop")


def changed(path: Path) -> list[str]:
    """Return the files that differ from the last commit, new ones included."""
    return sorted(line[3:] for line in git(path, "status", "--porcelain", "-uall").splitlines())


def passes(path: Path) -> bool:
    """Return whether the tests of the repository pass."""
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(TEST_COMMAND.split(), cwd=path, env=env, capture_output=True, check=False, timeout=30)
    return done.returncode == 0


def tool(name: str, **args: object) -> str:
    """Return the directive of a tool call for the scripted model."""
    return f"/tool {name} {json.dumps(args)}"


def bash(command: str, **more: object) -> str:
    """Return the directive of a call of bash."""
    return tool("bash", description=command[:30], command=command, **more)


def script(*lines: str) -> str:
    """Return a prompt for the scripted model, one step for each line."""
    return "\n/think on\n".join(lines)


async def results(workspace: WorkspaceFixture) -> list[dict[str, Any]]:
    """Return the results of all tool calls of the session, in order."""
    return [part for row in await workspace.messages() for part in parts_of(row, "tool_result")]
