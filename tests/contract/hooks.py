"""Keeps what is generated inside the temporary directories, and aims most of it at things that exist.

Values are changed only where they are well-formed: what was made wrong on purpose is sent as it is.
"""

import itertools
import json
import os
import uuid
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.openapi.checks import EnsureResourceAvailability, UseAfterFree

HOME = json.loads(os.environ["CONTRACT_HOME"])
"""`workspace` and `session`: ids of the ones that are always there. `directories`: below this new ones may be made.
`path`: the PATH of commands, with nothing in it."""

_removed: set[str] = set()
_numbers = itertools.count(10)

KEEPS_OWN_ID = {"remove_registration", "restart_worker", "evict_worker", "session_delete"}
"""What ends or disturbs the thing that all others are aimed at."""

NAMES_IN_BODY = {
    "mcp_get_prompt": "not_found",
    "mcp_read_resource": "not_found",
    "mcp_auth": "not_found",
    "skill_read": "not_found",
    "prompt_submit": "session_unknown",
}
"""What names something in its body, and the code of its 404 about that."""

LISTS_OF_SESSION = {
    "session_history",
    "session_messages",
    "session_user_messages",
    "filetracker_list",
    "prompt_count",
    "prompt_list",
}
"""Of a session that is not there they are empty; clients ask for child sessions that may not exist (http-api 2.4)."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """The last moment before a request leaves."""
    name = _name(case)
    if name == "create_workspace" and isinstance(case.body, dict):
        case.body = _contained(case.body, _phase(case) == "stateful")
    if name == "shell_run" and isinstance(case.body, dict) and isinstance(case.body.get("command"), str):
        case.body = {**case.body, "command": _harmless(case.body["command"])}
    if name in KEEPS_OWN_ID and (case.path_parameters or {}).get("id") == HOME["workspace"]:
        case.path_parameters["id"] = str(uuid.UUID(int=1))
    if name == "session_put" and _phase(case) == "stateful" and isinstance(case.body, dict) and "id" in case.body:
        # The body's id decides (http-api 2.4), and every client sends that of the path. Other phases do not.
        case.body = {**case.body, "id": case.path_parameters["sid"]}
    if _phase(case) != "stateful" and name not in KEEPS_OWN_ID and _is_positive(case):
        words = case.path_parameters or {}
        if "id" in words:
            words["id"] = HOME["workspace"]
        if "sid" in words:
            words["sid"] = HOME["session"]
        if name == "prompt_submit" and isinstance(case.body, dict) and isinstance(case.body.get("session_id"), str):
            case.body = {**case.body, "session_id": HOME["session"]}


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Remember which workspaces are gone."""
    if _name(case) == "remove_registration" and response.status_code == 200:
        _removed.add(case.path_parameters["id"])


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """What the checks conclude from the shape of a path, and what is otherwise here; anything else stays a failure.

    DELETE of a workspace ends the claim of one client, as the Crush API has it: the workspace stays (http-api 2.3).
    What does delete it is DELETE of its registration, and from then on it is rightly unknown. And a 404 can be about
    what the body names: an MCP server, a skill, the session of a prompt.
    """
    if isinstance(failure, UseAfterFree):
        if failure.operation == "DELETE /v1/workspaces/{id}/sessions/{sid}":
            return _name(case) not in LISTS_OF_SESSION
        return bool(failure.operation != "DELETE /v1/workspaces/{id}")
    if isinstance(failure, EnsureResourceAvailability):
        if NAMES_IN_BODY.get(_name(case)) == response.json()["code"]:
            return False
        return (case.path_parameters or {}).get("id") not in _removed
    return True


def _contained(body: dict[str, Any], is_story: bool) -> dict[str, Any]:
    """A wish for a workspace below our own directory, whose commands find no programs.

    In a story each has a directory of its own: two creations that mean the same workspace are one for the server, and
    to a story the end of the one would look like the loss of the other.
    """
    body = dict(body)
    if isinstance(body.get("path"), str) and body["path"]:
        number = next(_numbers) if is_story else len(body["path"]) % 3
        directory = Path(HOME["directories"]) / f"w{number}"
        directory.mkdir(exist_ok=True)
        body["path"] = str(directory)
    if isinstance(body.get("data_dir"), str):
        body["data_dir"] = ""
    if isinstance(body.get("env"), list) and all(isinstance(pair, str) for pair in body["env"]):
        body["env"] = [f"PATH={HOME['path']}"]
    return body


def _harmless(command: str) -> str:
    """The same text, as something to print: a random text must not be a redirection into a file."""
    return "printf %s " + "'" + command.replace("'", "") + "'" if command.strip() else command


def _name(case: Any) -> str:
    return str(case.operation.definition.raw.get("operationId", ""))


def _phase(case: Any) -> str:
    return str(case.meta.phase.name.value) if case.meta is not None else ""


def _is_positive(case: Any) -> bool:
    return case.meta is None or bool(case.meta.generation.mode.is_positive)
