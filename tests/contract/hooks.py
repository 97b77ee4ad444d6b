"""Confine generated requests to temporary directories, and send most of them to existing resources.

Only well-formed values are changed; values that are invalid on purpose are sent unchanged.
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
"""`workspace` and `session`: ids of the permanent ones. `directories`: new workspaces go below this directory.
`path`: an empty directory, used as PATH of commands."""

_removed: set[str] = set()
_numbers = itertools.count(10)

KEEPS_OWN_ID = {"adopt_directory", "remove_registration", "restart_worker", "evict_worker", "session_delete"}
"""Operations that would end or disturb the permanent workspace; they keep the generated id."""

NAMES_IN_BODY = {
    "mcp_get_prompt": "not_found",
    "mcp_read_resource": "not_found",
    "mcp_auth": "not_found",
    "skill_read": "not_found",
    "prompt_submit": "session_unknown",
}
"""Operation whose body names another resource -> error code of its 404 about that resource."""

LISTS_OF_SESSION = {
    "session_history",
    "session_messages",
    "session_user_messages",
    "filetracker_list",
    "prompt_count",
    "prompt_list",
}
"""Lists that are empty for an unknown session: clients ask for child sessions that may not exist."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Change a request just before it is sent."""
    name = _name(case)
    if name == "create_workspace" and isinstance(case.body, dict):
        case.body = _confined(case.body, _phase(case) == "stateful")
    if name == "shell_run" and isinstance(case.body, dict) and isinstance(case.body.get("command"), str):
        case.body = {**case.body, "command": _harmless(case.body["command"])}
    if name in KEEPS_OWN_ID and (case.path_parameters or {}).get("id") == HOME["workspace"]:
        case.path_parameters["id"] = str(uuid.UUID(int=1))
    if name == "session_put" and _phase(case) == "stateful" and isinstance(case.body, dict) and "id" in case.body:
        # The id in the body decides, and real clients send the same id in the path. Only this phase follows them.
        case.body = {**case.body, "id": case.path_parameters["sid"]}
    if _phase(case) != "stateful" and name not in KEEPS_OWN_ID and _is_positive(case):
        parameters = case.path_parameters or {}
        if "id" in parameters:
            parameters["id"] = HOME["workspace"]
        if "sid" in parameters:
            parameters["sid"] = HOME["session"]
        if name == "prompt_submit" and isinstance(case.body, dict) and isinstance(case.body.get("session_id"), str):
            case.body = {**case.body, "session_id": HOME["session"]}


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Remember which workspaces were removed."""
    if _name(case) == "remove_registration" and response.status_code == 200:
        _removed.add(case.path_parameters["id"])


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Return whether a failure is real: some conclusions that the checks draw from paths do not hold for this API.

    DELETE of a workspace ends the claim of one client, as in the Crush API; the workspace itself stays. DELETE of its
    registration removes it, and a 404 is right from then on. A 404 can also be about a resource that the body names: an
    MCP server, a skill, the session of a prompt.
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


def _confined(body: dict[str, Any], is_stateful: bool) -> dict[str, Any]:
    """Return a request for a workspace below the test directory, whose commands find no programs.

    In the stateful phase each workspace has a directory of its own: the server treats two creations for one directory
    as the same workspace, and the removal of one would look like the loss of the other.
    """
    body = dict(body)
    if isinstance(body.get("path"), str) and body["path"]:
        number = next(_numbers) if is_stateful else len(body["path"]) % 3
        directory = Path(HOME["directories"]) / f"w{number}"
        directory.mkdir(exist_ok=True)
        body["path"] = str(directory)
    if isinstance(body.get("data_dir"), str):
        body["data_dir"] = ""
    if isinstance(body.get("env"), list) and all(isinstance(pair, str) for pair in body["env"]):
        body["env"] = [f"PATH={HOME['path']}"]
    return body


def _harmless(command: str) -> str:
    """Return a command that prints the text: random text must not be run, it could redirect into a file."""
    return "printf %s " + "'" + command.replace("'", "") + "'" if command.strip() else command


def _name(case: Any) -> str:
    return str(case.operation.definition.raw.get("operationId", ""))


def _phase(case: Any) -> str:
    return str(case.meta.phase.name.value) if case.meta is not None else ""


def _is_positive(case: Any) -> bool:
    return case.meta is None or bool(case.meta.generation.mode.is_positive)
