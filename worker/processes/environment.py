"""The environment that a tool's child gets: the workspace's, without our own secrets and without a terminal. ◇"""

from collections.abc import Mapping

from protocol.secrets import is_secret_name
from protocol.worker_spec import MARKER

FORCED = {
    "BULKHEAD": "1",
    "AGENT": "bulkhead",
    "AI_AGENT": "bulkhead",
    "TERM": "xterm-256color",
    # Editors and pagers would wait for a person (T06): the one fails at once, the other prints.
    "EDITOR": "false",
    "VISUAL": "false",
    "GIT_EDITOR": "false",
    "JJ_EDITOR": "false",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "JJ_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
}

REMOVED = frozenset(
    {
        "BASH_ENV", "ENV", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC",
        "WATCHDOG_PID", "INVOCATION_ID", "TMUX", "TMUX_PANE", "STY", "ZELLIJ", "ZELLIJ_SESSION_NAME",
        "ZELLIJ_PANE_ID", "KITTY_WINDOW_ID", "WEZTERM_PANE",
    }
)  # fmt: skip
"""What belongs to the service manager or to a terminal, and what makes a shell run other files first."""


def tool_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command, apart from the markers.

    `PYTHON*` is left out, so that a tool's Python is the project's; so is all that is ours.
    """
    return {**{name: value for name, value in env.items() if _may_pass(name)}, **FORCED}


def user_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command that the user runs: his own, without what is ours or the service manager's."""
    return {
        name: value
        for name, value in env.items()
        if name not in REMOVED and not name.startswith("BULKHEAD") and _is_possible(name, value)
    }


def markers(env: Mapping[str, str]) -> dict[str, str]:
    """What every child of a worker inherits, so that what a worker or a test left behind is found."""
    return {name: value for name, value in env.items() if name == MARKER or name.startswith("BULKHEAD_TEST_")}


def _is_possible(name: str, value: str) -> bool:
    """Could the kernel take it? A configuration may say anything."""
    return bool(name) and "=" not in name and "\0" not in name + value


def _may_pass(name: str) -> bool:
    if name in REMOVED or name.startswith(("PYTHON", "BULKHEAD")):
        return False
    return not is_secret_name(name)
