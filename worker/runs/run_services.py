"""Hold the services that everything around a run shares."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from protocol.base.clock import Clock
from protocol.base.tasks import TaskOwner
from protocol.events import Event
from protocol.ids import RandomSource
from protocol.limits import Limits
from worker.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class RunServices:
    """The services of all runs of a worker. `owner` holds their tasks; the dispatcher closes it."""

    database: Database
    publish_snapshot: Callable[[Event], None]
    owner: TaskOwner
    limits: Limits
    clock: Clock
    random: RandomSource
    log: logging.Logger
