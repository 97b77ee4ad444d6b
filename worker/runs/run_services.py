"""Hold the services that everything around a run shares."""

import logging
from dataclasses import dataclass

from protocol.base.clock import Clock
from protocol.base.tasks import TaskOwner
from protocol.ids import RandomSource
from protocol.limits import Limits
from worker.events.publisher import Publisher
from worker.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class RunServices:
    """The services of all runs of a worker. `owner` holds their tasks; the dispatcher closes it."""

    database: Database
    publisher: Publisher
    owner: TaskOwner
    limits: Limits
    clock: Clock
    random: RandomSource
    log: logging.Logger
