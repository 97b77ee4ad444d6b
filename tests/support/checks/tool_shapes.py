"""Check the JSON inside strings: the `metadata` of a tool result, which the client decodes to render the result.

The input of a call comes from the model; it is only required to be an object when the call is finished.
"""

from typing import Any

from tests.support.checks.shape_checks import (
    Check,
    an_object,
    boolean,
    filled,
    integer,
    integers,
    list_of,
    milliseconds,
    one_of,
    parse,
    shape,
    string,
    strings,
)

TODO = shape(
    {"content": string, "status": one_of("pending", "in_progress", "completed")},
    {"active_form": string},
)
_COUNTED = integers(("additions", "removals"))
_FILES = shape({"number_of_files": integer, "truncated": boolean})
_MATCHES = shape({"number_of_matches": integer, "truncated": boolean})
_CONTENTS = strings("old_content", "new_content")
_DECISION = one_of("none", "allow", "deny")
_HOOK = shape(
    {"name": string, "decision": _DECISION},
    {"matcher": string, "halt": boolean, "reason": string, "input_rewrite": boolean},
)
_HOOKS = shape(
    {"hook_count": integer, "decision": _DECISION},
    {"halt": boolean, "reason": string, "input_rewrite": boolean, "hooks": list_of(_HOOK)},
)
_METADATA: dict[str, Check] = {
    "bash": shape(
        {"start_time": milliseconds, "end_time": milliseconds} | strings("output", "description", "working_directory"),
        {"background": boolean, "shell_id": string},
    ),
    "job_output": shape(strings("shell_id", "command", "description", "working_directory") | {"done": boolean}),
    "job_kill": shape(strings("shell_id", "command", "description")),
    "view": shape(strings("file_path", "content"), strings("resource_type", "resource_name", "resource_description")),
    "write": shape(_COUNTED | {"diff": string}),
    "edit": shape(_COUNTED, _CONTENTS),
    "multiedit": shape(
        _COUNTED | {"edits_applied": integer},
        _CONTENTS | {"edits_failed": list_of(shape({"index": integer, "error": string, "edit": an_object}))},
    ),
    **dict.fromkeys(("ls", "glob"), _FILES),
    **dict.fromkeys(("grep", "sourcegraph"), _MATCHES),
    "todos": shape(
        {"is_new": boolean, "todos": list_of(TODO)} | integers(("completed", "total")),
        {"just_completed": list_of(string), "just_started": string},
    ),
    "lsp_definition": shape({"file_path": filled, "line": integer, "content": string}),
    "lsp_replace_symbol": shape(strings("file_path", "action"), _CONTENTS),
}


def tool_input(value: Any, where: str, *, is_finished: bool) -> None:
    """Check the input of a call: a string; if the call is finished, empty or a JSON object."""
    string(value, where)
    if is_finished and value:
        an_object(parse(value, where), where)


def metadata(value: Any, where: str, *, name: str, is_error: bool) -> None:
    """Check the metadata of a result: empty or a JSON object; if the call succeeded, in the shape of its tool."""
    string(value, where)
    if not value:
        return
    decoded = parse(value, where)
    an_object(decoded, where)
    if "hook" in decoded:
        _HOOKS(decoded["hook"], f"{where}.hook")
    own = {key: item for key, item in decoded.items() if key != "hook"}
    if name in _METADATA and own and not is_error:
        _METADATA[name](own, f"{where}({name})")
