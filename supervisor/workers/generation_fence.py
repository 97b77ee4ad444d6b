"""The link's sink for one generation of a worker: what an older process says is not heard any more."""

from collections.abc import Callable
from typing import Protocol

from protocol.events import Event
from protocol.messages import Closing, Heartbeat, Hello, LastWord, Ready


class Hearer(Protocol):
    """Who wants to know what the present process says."""

    def heard_hello(self, message: Hello) -> None: ...

    def heard_ready(self, message: Ready) -> None: ...

    def heard_heartbeat(self, message: Heartbeat) -> None: ...

    def heard_events(self, batch: list[Event]) -> None: ...

    def heard_closing(self, message: Closing) -> None: ...

    def heard_last_word(self, message: LastWord) -> None: ...


class Ears:
    """Passes on what is said, for as long as `is_current()` holds."""

    def __init__(self, hearer: Hearer, is_current: Callable[[], bool]) -> None:
        self._hearer = hearer
        self._is_current = is_current

    def hello(self, message: Hello) -> None:
        if self._is_current():
            self._hearer.heard_hello(message)

    def ready(self, message: Ready) -> None:
        if self._is_current():
            self._hearer.heard_ready(message)

    def heartbeat(self, message: Heartbeat) -> None:
        if self._is_current():
            self._hearer.heard_heartbeat(message)

    def events(self, batch: list[Event]) -> None:
        if self._is_current():
            self._hearer.heard_events(batch)

    def closing(self, message: Closing) -> None:
        if self._is_current():
            self._hearer.heard_closing(message)

    def last_word(self, message: LastWord) -> None:
        if self._is_current():
            self._hearer.heard_last_word(message)
