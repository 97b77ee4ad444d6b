"""The link's sink for one generation of a worker: what an older process says is not heard any more."""

from collections.abc import Callable
from typing import Protocol

from protocol.events import Event
from protocol.messages import Closing, Heartbeat, Hello, LastWord, Ready


class WorkerListener(Protocol):
    """Who wants to know what the present process says."""

    def on_hello(self, message: Hello) -> None: ...

    def on_ready(self, message: Ready) -> None: ...

    def on_heartbeat(self, message: Heartbeat) -> None: ...

    def on_events(self, batch: list[Event]) -> None: ...

    def on_closing(self, message: Closing) -> None: ...

    def on_last_word(self, message: LastWord) -> None: ...


class FencedSink:
    """Passes on what is said, for as long as `is_current()` holds."""

    def __init__(self, hearer: WorkerListener, is_current: Callable[[], bool]) -> None:
        self._hearer = hearer
        self._is_current = is_current

    def hello(self, message: Hello) -> None:
        if self._is_current():
            self._hearer.on_hello(message)

    def ready(self, message: Ready) -> None:
        if self._is_current():
            self._hearer.on_ready(message)

    def heartbeat(self, message: Heartbeat) -> None:
        if self._is_current():
            self._hearer.on_heartbeat(message)

    def events(self, batch: list[Event]) -> None:
        if self._is_current():
            self._hearer.on_events(batch)

    def closing(self, message: Closing) -> None:
        if self._is_current():
            self._hearer.on_closing(message)

    def last_word(self, message: LastWord) -> None:
        if self._is_current():
            self._hearer.on_last_word(message)
