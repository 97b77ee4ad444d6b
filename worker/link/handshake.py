"""Keep the state of the handshake with a supervisor: hello on every new connection, welcome, then ready once.

A restarted supervisor is found by ZeroMQ's reconnect and hears the hello before anything else counts.
"""

from collections.abc import Callable

import msgspec

from protocol.base.process_identity import own_identity
from protocol.ids import Epoch
from protocol.messages import Hello, Ready, Welcome
from protocol.version import BULKHEAD_VERSION, WIRE_VERSION
from protocol.worker_spec import WorkerSpec
from worker.link.interfaces import WorkerStats


class Handshake:
    """Knows the newest supervisor, whether it accepted the hello, and whether the worker has said that it is ready."""

    def __init__(self, spec: WorkerSpec, stats: Callable[[], WorkerStats]) -> None:
        self.epoch = Epoch(0)  # the highest ever received
        self.is_welcome = False  # has the connected supervisor accepted the hello?
        self.has_said_ready = False
        self.hello_number = 0  # the last event number of the latest hello
        self.credit = 0  # of the latest welcome
        self.takes_growth = False  # of the latest welcome
        self._spec = spec
        self._stats = stats
        self._identity = own_identity()
        self._ready: Ready | None = None

    @property
    def owes_ready(self) -> bool:
        """Return whether recovery is done and no supervisor has heard of it yet."""
        return self._ready is not None and not self.has_said_ready

    def recovered(self, message: Ready) -> None:
        """Keep `message` until a supervisor accepts the hello."""
        self._ready = message

    def hello(self) -> Hello:
        """Make the hello for a new connection."""
        stats = self._stats()
        self.hello_number = stats.last_number
        return Hello(
            wire_version=WIRE_VERSION,
            code_version=BULKHEAD_VERSION,
            workspace_id=self._spec.workspace_id,
            generation=self._spec.generation,
            token=self._spec.token,
            pid=self._identity.pid,
            start_ticks=self._identity.start_ticks,
            boot_id=self._identity.boot_id,
            epoch=self.epoch,
            ready=self.has_said_ready,
            log_id=stats.log_id,
            last_number=stats.last_number,
            open_runs=stats.open_runs,
            failed=stats.failed,
        )

    def welcomed(self, message: Welcome) -> None:
        """The connected supervisor accepted the hello."""
        self.epoch = message.epoch
        self.is_welcome = True
        self.credit = message.credit
        self.takes_growth = message.takes_growth

    def ready(self) -> Ready:
        """Make the message that calls may come, with the numbers as they are now."""
        assert self._ready is not None
        self.has_said_ready = True
        stats = self._stats()
        return msgspec.structs.replace(
            self._ready, last_number=stats.last_number, open_runs=stats.open_runs, failed=stats.failed
        )
