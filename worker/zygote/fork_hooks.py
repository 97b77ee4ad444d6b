"""Keeps the libraries from running code in every fork of the zygote.

Python calls what modules register with `os.register_at_fork` in each child, mostly to renew locks that another thread
may have held. The zygote has one thread and holds no lock when it forks, so there is nothing to renew; but running
those functions writes to the memory around them, and makes shared pages each worker's own (0.6 MB right after the
fork, measured with Python 3.11).
"""

import os
import sys
from typing import Any

NEEDLESS = frozenset(
    {
        "threading",
        "logging",
        "random",  # `renew_random` does what it would do
        "concurrent.futures.thread",
        "pydantic_ai._display",
        "anthropic._models",
    }
)
"""The modules whose hooks only renew locks, or what we renew ourselves. Hooks of all others stay."""


def keep_forks_quiet() -> None:
    """Call it before anything else is imported: hooks that are registered cannot be taken back."""
    register = os.register_at_fork

    def register_unless_needless(**hooks: Any) -> None:
        if sys._getframe(1).f_globals.get("__name__") not in NEEDLESS:
            register(**hooks)

    os.register_at_fork = register_unless_needless


def renew_random() -> None:
    """In a fresh fork: no two workers draw the same numbers."""
    import random

    random.seed()
