"""Make the environment of a tool's child: that of the workspace without Bulkhead's secrets and without a terminal."""

from collections.abc import Mapping

from protocol.secrets import is_secret_name
from protocol.worker_spec import MARKER

FORCED = {
    "BULKHEAD": "1",
    "AGENT": "bulkhead",
    "AI_AGENT": "bulkhead",
    "TERM": "xterm-256color",
    # Editors and pagers would wait for a user (T06): an editor fails at once, a pager prints.
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
"""Variables of the service manager and of terminals, and those that make a shell run other files first."""


def tool_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Make the environment of a command, without the markers.

    `PYTHON*` is left out, so that a tool uses the project's Python; so are Bulkhead's own variables.
    """
    return {**{name: value for name, value in env.items() if _may_pass(name)}, **FORCED}


def user_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Make the environment of a command that the user runs: without Bulkhead's and the service manager's variables."""
    return {
        name: value
        for name, value in env.items()
        if name not in REMOVED and not name.startswith("BULKHEAD") and _is_possible(name, value)
    }


def markers(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which the processes that a worker or a test left behind are found."""
    return {name: value for name, value in env.items() if name == MARKER or name.startswith("BULKHEAD_TEST_")}


def _is_possible(name: str, value: str) -> bool:
    """Return whether the kernel accepts the variable: a configuration may contain anything."""
    return bool(name) and "=" not in name and "\0" not in name + value


def _may_pass(name: str) -> bool:
    if name in REMOVED or name.startswith(("PYTHON", "BULKHEAD")):
        return False
    return not is_secret_name(name)
