"""Errors of a wrong configuration name file, line and key, and say what would be right."""

import json
import os
from pathlib import Path

import pytest

from protocol.errors import BadInput
from worker.config import files as config_files
from worker.config.files import DEPTH_MAX, FILE_MAX_BYTES, Layer, merged_layers, parse
from worker.config.json_positions import TextPosition, dotted, json_positions
from worker.config.load import WorkspaceConfig, load_config
from worker.config.provenance import Provenance


@pytest.fixture(autouse=True)
def _no_system_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_files, "SYSTEM_DIR", tmp_path / "etc")


def load(tmp_path: Path, text: str, *more: str, env: dict[str, str] | None = None) -> WorkspaceConfig:
    """Load a workspace with `text` as crush.json and `more` as the files with higher precedence."""
    for name, content in zip(("crush.json", ".crush.json", "bulkhead.json"), (text, *more), strict=False):
        (tmp_path / name).write_text(content)
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], **(env or {})}
    return load_config(tmp_path, tmp_path / ".bulkhead", environment)


def refusal(tmp_path: Path, text: str, *more: str) -> str:
    with pytest.raises(BadInput) as caught:
        load(tmp_path, text, *more)
    return caught.value.message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"options": {"disable_auto_summarize": "yes"}}, 'disable_auto_summarize must be true or false, not "yes"'),
        ({"options": {"debug": 1}}, "options.debug must be true or false, not 1"),
        ({"options": {"disabled_tools": "bash"}}, "disabled_tools must be a list of strings, not a string"),
        ({"options": {"skills_paths": [1]}}, "options.skills_paths[0] must be a string, not 1"),
        ({"options": {"notifications": "loud"}}, 'one of "auto", "bell", "disabled", "native", "osc", not "loud"'),
        ({"options": []}, "options must be an object, not a list"),
        ({"options": {"tui": {"completions": {"max_depth": -1}}}}, "max_depth must be a whole number of at least 0"),
        ({"tools": {"grep": {"timeout": 2.5}}}, "tools.grep.timeout must be a whole number of at least 0, not 2.5"),
        ({"tools": {"ls": {"max_items": True}}}, "tools.ls.max_items must be a whole number of at least 0, not true"),
        ({"providers": {"x": 5}}, "providers.x must be an object, not 5"),
        ({"providers": {"a.b": {"models": [{"id": 5}]}}}, "providers.a\\.b.models[0].id must be a string, not 5"),
        ({"providers": {"x": {"models": [{"can_reason": "no"}]}}}, "models[0].can_reason must be true or false"),
        ({"models": {"large": {"temperature": "hot"}}}, 'models.large.temperature must be a number, not "hot"'),
        ({"mcp": {"m": {"type": "tcp"}}}, 'mcp.m.type must be one of "http", "sse", "stdio", not "tcp"'),
        ({"mcp": {"m": {"oauth_callback_port": 70000}}}, "a whole number from 0 to 65535, not 70000"),
        ({"lsp": {"go": {"args": "x"}}}, "lsp.go.args must be a list of strings"),
        ({"hooks": {"PreToolUse": [{"matcher": "x"}]}}, "hooks.PreToolUse[0] needs the key command"),
        ({"hooks": {"PreToolUse": [{"command": ""}]}}, "command must be a string that is not empty"),
        (
            {"hooks": {"PreToolUse": [{"command": "x", "matcher": "("}]}},
            "PreToolUse[0] is not valid: the matcher",
        ),
        ({"permissions": {"allowed_tools": {"bash": True}}}, "must be a list of strings, not an object"),
        ({"env": {"PORT": 8080}}, "env.PORT must be a string"),
        ({"recent_models": {"large": {}}}, "recent_models.large must be a list of objects"),
    ],
)
def test_a_wrong_type_is_an_error_with_key_and_right_type(tmp_path: Path, value: dict[str, object], words: str) -> None:
    message = refusal(tmp_path, json.dumps(value))
    assert message.startswith(f"cannot use {tmp_path / 'crush.json'}: line 1: ")
    assert words in message


def test_the_reported_line_is_in_the_file_whose_value_counts(tmp_path: Path) -> None:
    low = '{\n  "options": {\n    "debug": true\n  }\n}'
    high = '\ufeff{\n\n  "options":\n    {"skills_paths": [],\n\n     "debug": "yes"}\n}'
    message = refusal(tmp_path, low, "{}", high)
    assert message.startswith(f"cannot use {tmp_path / 'bulkhead.json'}: line 6: options.debug")


def test_the_error_of_a_list_item_names_the_file_that_has_the_item(tmp_path: Path) -> None:
    low = '{"permissions": {"allowed_tools": [\n"ls",\n7\n]}}'
    high = '{"permissions": {"allowed_tools": [\n"view"]}}'
    message = refusal(tmp_path, low, high)
    assert message.startswith(f"cannot use {tmp_path / 'crush.json'}: line 3: permissions.allowed_tools[1] must")


def test_a_wrong_value_that_another_file_overrides_is_no_error(tmp_path: Path) -> None:
    assert load(tmp_path, '{"options": {"debug": "yes"}}', '{"options": {"debug": true}}').options.debug is True


def test_a_null_counts_as_not_set_also_inside_a_list(tmp_path: Path) -> None:
    model = {"id": "m", "name": None, "reasoning_levels": None}
    body = {"stop": [{"keep": None}]}
    provider = {"base_url": "http://x", "api_key": None, "models": [model], "extra_body": body}
    config = load(tmp_path, json.dumps({"providers": {"p": provider}}))
    assert [model.id for model in config.providers["p"].models] == ["m"]
    assert config.providers["p"].extra_body == body
    assert "models[0].id must be a string, not 5" in refusal(
        tmp_path, json.dumps({"providers": {"p": {"models": [{"id": 5, "name": None}]}}})
    )


def test_further_errors_are_counted(tmp_path: Path) -> None:
    message = refusal(tmp_path, '{"options": {"debug": 1, "debug_lsp": 2, "progress": 3}}')
    assert "options.debug must" in message
    assert message.endswith("(and 2 more; `bulkhead config` lists them)")


def test_error_messages_contain_no_secrets(tmp_path: Path) -> None:
    provider: dict[str, object] = {"api_key": 987654321, "extra_headers": "X-Key: hunter2"}
    env = {"A": 555}
    message = refusal(tmp_path, json.dumps({"providers": {"p": provider}, "env": env}))
    assert "987654321" not in message
    assert "api_key must be a string, not a number" in message
    del provider["api_key"]
    assert "hunter2" not in refusal(tmp_path, json.dumps({"providers": {"p": provider}}))
    assert "hunter2" not in refusal(tmp_path, json.dumps({"providers": {"p": "hunter2"}}))
    assert "555" not in refusal(tmp_path, json.dumps({"env": env}))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"option": {}}, "option is unknown; did you mean options?"),
        ({"options": {"disable_autosummarize": True}}, "did you mean options.disable_auto_summarize?"),
        ({"options": {"disabledTools": []}}, "did you mean options.disabled_tools?"),
        ({"options": {"context-paths": []}}, "did you mean options.context_paths?"),
        ({"providers": {"p": {"baseurl": "x", "disable": True}}}, "did you mean providers.p.base_url?"),
        ({"hooks": {"PreToolUse": [{"command": "x", "timeouts": 1}]}}, "hooks.PreToolUse[0].timeouts is unknown"),
        ({"qqq": 1}, "qqq is unknown"),
    ],
)
def test_an_unknown_key_is_a_warning_with_the_most_similar_key(
    tmp_path: Path, value: dict[str, object], words: str
) -> None:
    (warning,) = load(tmp_path, json.dumps(value, indent=1)).warnings
    assert warning.startswith(f"{tmp_path / 'crush.json'}: line ")
    assert words in warning
    assert ("did you mean" in warning) == ("did you mean" in words or "timeouts" in warning)


def test_keys_that_the_user_may_choose_are_never_unknown(tmp_path: Path) -> None:
    free = {
        "$schema": "https://example.org/s.json",
        "providers": {"p": {"base_url": "http://x", "extra_body": {"any": {"thing": 1}}, "provider_options": {"a": 1}}},
        "lsp": {"x": {"init_options": {"a": 1}, "disabled": True}},
        "server": {"default_model": "builtin/script"},
        "env": {"ANY": "1"},
    }
    assert load(tmp_path, json.dumps(free)).warnings == ()


def test_an_unknown_hook_event_is_a_warning(tmp_path: Path) -> None:
    config = load(tmp_path, json.dumps({"hooks": {"PostToolUse": [{"command": "x"}], "pre_tool_use": []}}))
    assert len(config.warnings) == 1
    assert "hooks.PostToolUse is unknown; the only event is PreToolUse" in config.warnings[0]


# --- files with other content -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": NaN}', "NaN is not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ('{"options": {"tui": {"x": 99999999999999999999}}}', "too large"),
        ('{"a": "\\ud800"}', "\\ud800 is half of a surrogate pair"),
        ('{"a":' * (DEPTH_MAX + 1) + "1" + "}" * (DEPTH_MAX + 1), "nested too deeply"),
        ("[" * 900 + "]" * 900, "nested too deeply"),
        ("{" + " " * FILE_MAX_BYTES + "}", "larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, words: str) -> None:
    message = refusal(tmp_path, text)
    assert str(tmp_path / "crush.json") in message
    assert words in message


def test_a_file_at_the_nesting_limit_is_read(tmp_path: Path) -> None:
    depth = DEPTH_MAX - 2
    text = '{"options": {"tui": ' + '{"a":' * (depth - 2) + "1" + "}" * (depth - 2) + "}}"
    assert json.loads(load(tmp_path, text).wire())["options"]["tui"]["a"]


def test_a_pipe_does_not_block_the_start_and_dev_null_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".bulkhead.json")
    assert "it is not a regular file" in refusal(tmp_path, "{}")
    (tmp_path / ".bulkhead.json").unlink()
    (tmp_path / ".bulkhead.json").symlink_to(os.devnull)
    assert load(tmp_path, "{}").files == ()


def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bulkhead.json").mkdir()
    assert "bulkhead.json: it is not a regular file" in refusal(tmp_path, "{}")


def test_a_file_with_two_roles_counts_once(tmp_path: Path) -> None:
    directory = tmp_path / "home" / ".config" / "bulkhead"
    directory.mkdir(parents=True)
    (directory / "bulkhead.json").write_text('{"permissions": {"allowed_tools": ["ls"]}}')
    config = load_config(directory, directory / ".bulkhead", {"HOME": str(tmp_path / "home")})
    assert config.allowed_tools == ("ls",)


def test_a_file_with_several_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "crush.json").write_text('{"mcp": {"a": {"command": "npx", "args": ["-y"]}}}')
    (tmp_path / "bulkhead.json").symlink_to("crush.json")
    config = load_config(tmp_path, tmp_path / "d", {"HOME": str(tmp_path / "home")})
    assert config.mcp["a"].args == ["-y"]
    assert config.files == (tmp_path / "bulkhead.json",)


def test_a_change_of_a_linked_file_is_checked_in_place_of_the_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text('{"options": {"debug": true}}')
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "bulkhead.json").symlink_to(real)
    config = load_config(
        tmp_path,
        tmp_path / "d",
        {"HOME": "/nonexistent"},
        unwritten={tmp_path / "d" / "bulkhead.json": {"env": {"A": "1"}}},
    )
    assert (config.options.debug, config.env) == (False, {"A": "1"})


def test_a_duplicate_key_is_a_warning(tmp_path: Path) -> None:
    config = load(tmp_path, '{"mcp": {"a": {"command": "x"}},\n "mcp": {"b": {"command": "y", "command": "z"}}}')
    assert list(config.mcp) == ["b"]
    assert config.mcp["b"].command == "z"
    (warning,) = config.warnings
    assert str(tmp_path) in warning
    assert 'duplicate keys in one object: "command", "mcp"; the last value' in warning


def test_a_script_is_a_warning_and_is_not_run(tmp_path: Path) -> None:
    script = tmp_path / "crushrc"
    script.write_text("touch was-here\n")
    config = load(tmp_path, "{}")
    assert config.warnings == (f"{script} is not read: scripts are not supported; write the settings to bulkhead.json",)
    assert not (tmp_path / "was-here").exists()


# --- positions --------------------------------------------------------------------------------------------------------


def test_positions_of_keys_and_list_items() -> None:
    text = '{ "a": 1,\n  "b\\"}": {"c": [true, {"d": null},\n [-1.5e3] ]},\n  "a": "x:{,"}'
    positions = json_positions(text)
    assert positions[("a",)] == TextPosition(4, 3)
    assert positions[('b"}',)] == TextPosition(2, 3)
    assert positions[('b"}', "c", 1, "d")] == TextPosition(2, 25)
    assert positions[('b"}', "c", 2, 0)] == TextPosition(3, 3)


def test_each_value_of_a_merged_tree_has_a_source() -> None:
    texts = {
        Path("/low"): '{"a": {"x": [1],\n "y": 2}, "s": 1, "o": {"k": 1},\n "l": [{"n": [1]}]}',
        Path("/high"): '{"a": {"x": [2,\n3]},\n "s": {"t": 1}, "o": [4],\n "l": [{"m": 1}], "n": null}',
    }
    layers = [Layer(path, parse(path, text), text) for path, text in texts.items()]
    merged = merged_layers(layers, [])
    sources = Provenance(layers)
    expected = {
        ("a", "x", 0): "/low: line 1",
        ("a", "x", 1): "/high: line 1",
        ("a", "x", 2): "/high: line 2",
        ("a", "y"): "/low: line 2",
        ("s", "t"): "/high: line 3",
        ("o", 0): "/high: line 3",
        ("l", 0, "n", 0): "/low: line 3",
        ("l", 1, "m"): "/high: line 4",
    }
    assert merged.merged["a"] == {"x": [1, 2, 3], "y": 2}
    assert {path: str(sources.of(path)) for path in expected} == expected
    assert sources.of(("nowhere",)) is None


def test_paths_are_written_with_dots_and_escapes() -> None:
    assert dotted(("a.b", "c", 0, "d\\")) == "a\\.b.c[0].d\\\\"
