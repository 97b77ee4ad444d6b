"""Open a real database in a directory of the test and collect its notifications."""

import logging
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from protocol.base.clock import SystemClock
from protocol.events import Event
from protocol.limits import DEFAULT_LIMITS, Limits
from worker.store.database import Database


@dataclass
class StoreListener:
    """The events committed and the fatal errors reported by a database."""

    events: list[Event] = field(default_factory=list)
    fatal: list[BaseException] = field(default_factory=list)


async def open_database(path: Path, listener: StoreListener | None = None, limits: Limits = DEFAULT_LIMITS) -> Database:
    """Open the database at `path`; its notifications go to `listener`."""
    listener = listener or StoreListener()
    return await Database.open(
        path,
        limits=limits,
        clock=SystemClock(),
        log=logging.getLogger("bulkhead.test"),
        random=random.Random(os.urandom(8)),
        on_commit=listener.events.extend,
        on_fatal=listener.fatal.append,
    )
