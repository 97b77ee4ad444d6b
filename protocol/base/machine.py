"""Provide the table-driven base class of all state machines.

A machine is one class: a table on top (state -> fact -> states it may lead to), one method per fact, which returns
effects. It uses no clock, process, socket or task.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import ClassVar, Generic, TypeVar

State = TypeVar("State", bound=Enum)
Effect = TypeVar("Effect")

STORY_LENGTH = 32


class InvalidTransition(Exception):
    """The table does not allow this fact in this state: a bug. The text contains the last moves."""


class Machine(Generic[State]):
    """Keeps a state and its last moves; `_move` is the only way to change the state."""

    table: ClassVar[Mapping[Enum, Mapping[str, Sequence[Enum]]]]

    def __init__(self, state: State) -> None:
        self.state = state
        self._story: deque[str] = deque(maxlen=STORY_LENGTH)

    def _move(self, fact: str, to: State, effects: Sequence[Effect] = ()) -> list[Effect]:
        """Go to `to` because of `fact` and return `effects`. Raises InvalidTransition."""
        allowed = self.table.get(self.state, {}).get(fact, ())
        if to not in allowed:
            story = " -> ".join(self._story) or "(no moves yet)"
            raise InvalidTransition(
                f"{type(self).__name__}: {fact!r} may not lead from {self.state.name} to {to.name}; story: {story}"
            )
        self._story.append(f"{self.state.name} {fact} {to.name}")
        self.state = to
        return list(effects)

    @property
    def story(self) -> list[str]:
        """Return the last moves, oldest first."""
        return list(self._story)
