"""Define how much the group `provider` measures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The counts of one repetition; the idle workspaces are measured once. `is_quick`: a smoke test, without limits."""

    repetitions: int = 3
    replies: int = 100
    workspaces: int = 20
    clients: int = 50
    paced_s: float = 8.0
    idle_workspaces: int = 100
    is_quick: bool = False


def quick() -> Options:
    """Return counts for a smoke test; its figures cannot be compared with the limits."""
    return Options(repetitions=1, replies=10, workspaces=4, clients=5, paced_s=2.0, idle_workspaces=5, is_quick=True)
