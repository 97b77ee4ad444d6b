"""A real database in a directory of the test, and what its owner hears of it."""

import logging
import random
from dataclasses import dataclass, field
from pathlib import Path

from protocol.base.clock import SystemClock
from protocol.events import Event
from protocol.limits import DEFAULT_LIMITS, Limits
from worker.store.database import Database


@dataclass
class Heard:
    """What the database told its owner."""

    events: list[Event] = field(default_factory=list)
    fatal: list[BaseException] = field(default_factory=list)


async def open_database(path: Path, heard: Heard | None = None, limits: Limits = DEFAULT_LIMITS) -> Database:
    """Open the database at `path`; what it tells goes to `heard`."""
    heard = heard or Heard()
    return await Database.open(
        path,
        limits=limits,
        clock=SystemClock(),
        log=logging.getLogger("bulkhead.test"),
        random=random.Random(1),
        on_commit=heard.events.extend,
        on_fatal=heard.fatal.append,
    )
