"""The configuration of a workspace: files, merging, expansion, selected models, what clients see."""

import json
import os
from pathlib import Path

import pytest

from protocol.errors import BadInput
from protocol.ids import WorkspaceId
from protocol.limits import Limits
from protocol.workspace_mark import write_mark
from worker.config import files as config_files
from worker.config.data_dir import data_dir_of, own_place
from worker.config.discover import DISCOVER_S
from worker.config.expand import COMMANDS_S, CommandFailed, TimeBudget, expand, shell_runner
from worker.config.files import merge, project_dirs
from worker.config.load import WorkspaceConfig, load_config


@pytest.fixture(autouse=True)
def _no_system_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_files, "SYSTEM_DIR", tmp_path / "etc")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def load(tmp_path: Path, env: dict[str, str] | None = None, default_model: str = "") -> WorkspaceConfig:
    workspace = tmp_path / "repo" / "sub"
    workspace.mkdir(parents=True, exist_ok=True)
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], **(env or {})}
    return load_config(workspace, workspace / ".bulkhead", environment, default_model=default_model)


# --- expansion ----------------------------------------------------------------------------------------------------

ENV = {"KEY": "value", "EMPTY": ""}


def run_echo(command: str) -> str:
    return f"<{command}>"


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("$KEY/x", "value/x"),
        ("${KEY}x", "valuex"),
        ("$UNSET.", "."),
        ("${UNSET:-other}", "other"),
        ("${EMPTY:-$KEY}", "value"),
        ("${KEY:-$(never)}", "value"),
        ("${KEY:+set}", "set"),
        ("${UNSET:+set}", ""),
        ("${KEY:?must be there}", "value"),
        ("${UNSET:-${ALSO:-deep}}", "deep"),
        ("${KEY:-${ALSO:?quiet}}", "value"),
        ("$(echo a (b) c)", "<echo a (b) c>"),
        ("`cmd`", "<cmd>"),
        ("'$KEY'", "$KEY"),
        ('"$KEY  x"', "value  x"),
        ("\\$KEY", "$KEY"),
        ('"it\'s"', "it's"),
        ('"a\\b\\$KEY\\"c\\\\"', 'a\\b$KEY"c\\'),
        ("a\\b", "ab"),
        ("'a\\b'", "a\\b"),
        ('"${UNSET:-it\'s}"', "it's"),
        ("${UNSET:-'$KEY'}", "$KEY"),
        ('"${UNSET:-"$KEY"}"', "value"),
        ("${UNSET:-}", ""),
        ("${EMPTY:+x}", ""),
        ("${KEY:+$KEY$KEY}", "valuevalue"),
        ("${KEY:+'a}b'}", "a}b"),
        ('$(echo \')\' "(\\"")', '<echo \')\' "(\\"">'),
        ("$(echo \\))", "<echo \\)>"),
        ("${KEY:-$(echo })}", "value"),
        ("a  b*c ~ #x", "a  b*c ~ #x"),
        ("$KEY$KEY", "valuevalue"),
        ("$KEYS", ""),
        ("${KEY}\\", "value"),
    ],
)
def test_templates_are_expanded(template: str, value: str) -> None:
    assert expand(template, ENV, run_echo) == value


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("$", "no name after $"),
        ("a$ b", "no name after $"),
        ("${KEY", "only"),
        ("${KEY:-x", "closing"),
        ("${KEY%x}", "only"),
        ("${}", "name"),
        ("$(open", "closing"),
        ("'open", "closing"),
        ("${UNSET:?set it}", "UNSET is not set: set it"),
        ("${UNSET:?}", "UNSET is not set"),
        ("${EMPTY:?ask for $KEY}", "EMPTY is not set: ask for $KEY"),
        ("${UNSET:?" + "é" * 600 + "}", "é" * 100),
        ('"open', "closing"),
        ("`open", "closing"),
        ("$5", "no name after $"),
        ("${KEY:=x}", "only"),
    ],
)
def test_expansion_errors_quote_the_template(template: str, reason: str) -> None:
    with pytest.raises(BadInput, match="cannot expand") as caught:
        expand(template, ENV, run_echo)
    assert reason in caught.value.message
    assert "value" not in caught.value.message


def test_commands_run_in_a_shell_and_are_bounded(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "SECRET": "hunter2hunter2"}
    runner = shell_runner(tmp_path, env, timeout_s=5)
    assert runner("printf 'a\\nb\\n\\n'; pwd >&2") == "a\nb"
    assert runner("pwd") == str(tmp_path)
    assert runner("printf 'a\\0b'") == "ab"
    with pytest.raises(CommandFailed, match="status 3"):
        runner("echo hunter2hunter2; exit 3")
    with pytest.raises(CommandFailed, match="bytes"):
        runner("head -c 100000 /dev/zero")
    with pytest.raises(CommandFailed, match="longer"):
        shell_runner(tmp_path, env, timeout_s=0.1)("sleep 30")
    with pytest.raises(CommandFailed, match="could not be started"):
        runner("echo a\0b")


def test_all_commands_of_a_load_share_one_time_budget(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"]}
    budget = TimeBudget(0.2)
    runners = [shell_runner(tmp_path, env, budget=budget) for _ in range(2)]
    with pytest.raises(CommandFailed, match=r"took longer than 0\.2 s"):
        runners[0]("sleep 30")
    with pytest.raises(CommandFailed, match=r"longer than 0\.2 s together"):
        runners[1]("echo x")
    assert Limits().start_deadline_s > COMMANDS_S + DISCOVER_S


def test_variables_and_keys_share_one_time_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.config.load.TimeBudget", lambda: TimeBudget(0.3))
    keys = {name: {"base_url": "http://x", "api_key": "$(sleep 30)"} for name in "abc"}
    write(tmp_path / "repo" / "sub" / "crush.json", {"env": {"A": "$(echo 1)"}, "providers": keys})
    config = load(tmp_path, env={"PATH": os.environ["PATH"]})
    assert [warning.partition(" is not used")[0] for warning in config.warnings] == [f"provider '{n}'" for n in "abc"]
    assert "together" in config.warnings[2]


# --- files ----------------------------------------------------------------------------------------------------------


def test_higher_files_win_objects_are_merged_and_lists_are_joined() -> None:
    lower = {"a": {"x": 1, "y": [1]}, "b": 1, "c": {"z": 1}}
    higher = {"a": {"y": [2], "w": 2}, "b": 2, "c": None}
    assert merge(lower, higher) == {"a": {"x": 1, "y": [1, 2], "w": 2}, "b": 2, "c": {"z": 1}}


def test_files_are_merged_in_their_order(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    (repo / ".git").mkdir(parents=True)
    user_config = tmp_path / "home" / ".config"
    files = [
        tmp_path / "etc" / "crush" / "crush.json",
        user_config / "crush" / "crush.json",
        user_config / "bulkhead" / "bulkhead.json",
        tmp_path / "home" / ".local" / "share" / "crush" / "crush.json",
        *(repo / name for name in ("crush.json", ".crush.json", "bulkhead.json", ".bulkhead.json")),
        *(repo / "sub" / name for name in ("crush.json", ".crush.json", "bulkhead.json", ".bulkhead.json")),
        repo / "sub" / ".bulkhead" / "crush.json",
        repo / "sub" / ".bulkhead" / "bulkhead.json",
    ]
    for number, path in enumerate(files):
        write(path, {"options": {"initialize_as": str(number)}, "permissions": {"allowed_tools": [str(number)]}})
    write(tmp_path / "crush.json", {"options": {"initialize_as": "above the repository"}})
    config = load(tmp_path)
    assert list(config.files) == files
    assert config.allowed_tools == tuple(str(number) for number in range(len(files)))
    assert json.loads(config.wire())["options"]["initialize_as"] == str(len(files) - 1)


def test_outside_a_repository_only_the_workspace_counts(tmp_path: Path) -> None:
    assert project_dirs(tmp_path / "a") == [tmp_path / "a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n  "a": tru\n}', ["line 2", "column 8"]),
        ("[1]", ["one JSON object"]),
        ('{"providers": {"x": 5}}', ["providers"]),
        ('{"options": {"disabled_tools": "bash"}}', ["disabled_tools"]),
        ("[" * 100_000, ["too deeply"]),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "repo" / "sub" / "crush.json"
    write(path, text)
    with pytest.raises(BadInput) as caught:
        load(tmp_path)
    for word in [str(path), *words]:
        assert word in caught.value.message


def test_empty_files_are_skipped_and_other_encodings_refused(tmp_path: Path) -> None:
    path = tmp_path / "repo" / "sub" / "crush.json"
    write(path, "")
    assert load(tmp_path).files == ()
    path.write_bytes(b'\xef\xbb\xbf{"options": {}}')
    assert load(tmp_path).files == (path,)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="UTF-8"):
        load(tmp_path)


def test_project_files_of_another_user_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = tmp_path / "repo" / "sub"
    paths = [workspace / "crush.json", workspace / ".bulkhead" / "bulkhead.json"]
    for path in paths:
        write(path, {"options": {"debug": True}})
    assert load_config(workspace, paths[1].parent, {"HOME": "/nonexistent"}).files == tuple(paths)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    config = load_config(workspace, paths[1].parent, {"HOME": "/nonexistent"})
    assert (config.files, config.options.debug) == ((), False)
    assert ["another user" in warning for warning in config.warnings] == [True, True]


# --- providers and models ---------------------------------------------------------------------------------------------


def test_without_configuration_the_scripted_model_is_selected_with_a_hint(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert list(config.providers) == ["builtin"]
    assert (config.models["large"].provider, config.models["large"].model) == ("builtin", "script")
    assert config.models["small"] == config.models["large"]
    assert "ANTHROPIC_API_KEY" in config.hint


@pytest.mark.parametrize(
    ("variable", "provider"),
    [("ANTHROPIC_API_KEY", "anthropic"), ("OPENAI_API_KEY", "openai"), ("OPENROUTER_API_KEY", "openrouter")],
)
def test_the_variable_of_a_key_adds_its_provider(tmp_path: Path, variable: str, provider: str) -> None:
    config = load(tmp_path, {variable: "sk-secret-1234567"})
    assert list(config.providers) == [provider, "builtin"]
    assert config.models["large"].provider == config.models["small"].provider == provider
    assert config.hint == ""
    assert config.secrets == ("sk-secret-1234567",)
    wire = config.wire()
    assert b"sk-secret" not in wire
    assert json.loads(wire)["providers"][provider]["api_key"] == "***"
    assert "sk-secret" not in repr(config)


def test_a_custom_provider_and_selected_models(tmp_path: Path) -> None:
    write(
        tmp_path / "repo" / "sub" / "bulkhead.json",
        {
            "providers": {
                "mine": {
                    "base_url": "http://${HOST:-localhost}:1/v1/",
                    "api_key": "$(printf key-from-command)",
                    "extra_headers": {"X-Auth": "$TOKEN", "X-None": "$NOTHING"},
                    "models": [{"id": "m1", "name": "M1"}],
                },
                "without_url": {"models": [{"id": "x"}]},
                "off": {"base_url": "http://x", "disable": True},
            },
            "models": {"large": {"model": "unlisted", "provider": "mine", "max_tokens": 77}},
        },
    )
    config = load(tmp_path, {"TOKEN": "header-secret"})
    mine = config.providers["mine"]
    assert (mine.base_url, mine.api_key, mine.type) == ("http://localhost:1/v1", "key-from-command", "openai-compat")
    assert mine.extra_headers == {"X-Auth": "header-secret"}
    assert [model.id for model in mine.models] == ["m1", "unlisted"]
    assert config.models["large"].max_tokens == 77
    assert config.models["small"] == config.models["large"]
    assert set(config.providers) == {"mine", "builtin"}
    assert any("without_url" in warning for warning in config.warnings)
    assert b"header-secret" not in config.wire()
    assert set(config.secrets) == {"key-from-command", "header-secret"}


def test_the_default_model_of_the_server_wins(tmp_path: Path) -> None:
    write(
        tmp_path / "repo" / "sub" / "crush.json",
        {"models": {"large": {"model": "gpt-5.4", "provider": "openai"}}},
    )
    env = {"OPENAI_API_KEY": "k" * 20, "ANTHROPIC_API_KEY": "a" * 20}
    assert load(tmp_path, env).models["large"].model == "gpt-5.4"
    chosen = load(tmp_path, env, default_model="anthropic/claude-next").models["large"]
    assert (chosen.provider, chosen.model) == ("anthropic", "claude-next")
    assert load(tmp_path, default_model="builtin/script").models["large"].provider == "builtin"
    with pytest.raises(BadInput, match="openai"):
        load(tmp_path, env, default_model="unknown/model")


def test_a_selected_model_whose_provider_has_no_key_is_a_problem_with_the_reason(tmp_path: Path) -> None:
    write(
        tmp_path / "repo" / "sub" / "crush.json",
        {
            "models": {"large": {"model": "gpt-5.4", "provider": "openai"}},
            "providers": {"openai": {"api_key": "${MISSING:?no}"}},
        },
    )
    config = load(tmp_path)
    assert "cannot use the large model 'openai/gpt-5.4'" in config.model_problem
    assert "MISSING is not set: no" in config.model_problem
    assert config.hint == ""


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"models": {"large": {"model": "m", "provider": "gone"}}}, "no such provider is configured"),
        ({"models": {"large": {"model": "m", "provider": "mistral"}}}, "provider 'mistral' is not available"),
        ({"models": {"small": {"model": "m", "provider": "gone"}}}, "cannot use the small model 'gone/m'"),
        ({"models": {"large": {"model": "m"}}}, "needs both a provider and a model"),
        ({"providers": {"p": {"type": "openai-compat"}}}, "set its base_url"),
        ({"providers": {"p": {"base_url": "http://x"}}}, "'p' has no models"),
        ({"providers": {"openai": {}}}, "set OPENAI_API_KEY"),
        (
            {
                "models": {"large": {"model": "m", "provider": "p"}},
                "providers": {"p": {"base_url": "http://x", "disable": True, "models": [{"id": "m"}]}},
            },
            "provider 'p' is not available",
        ),
    ],
)
def test_no_other_model_answers_for_one_that_cannot_be_used(
    tmp_path: Path, tree: dict[str, object], reason: str
) -> None:
    write(tmp_path / "repo" / "sub" / "crush.json", tree)
    config = load(tmp_path)
    assert reason in config.model_problem
    assert config.hint == ""


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"providers": {"p": {"disable": True, "base_url": "http://x"}}},
        {"models": {"large": {"model": "script", "provider": "builtin"}}, "providers": {"openai": {}}},
    ],
)
def test_the_scripted_model_answers_where_nothing_else_is_asked_for(tmp_path: Path, tree: dict[str, object]) -> None:
    write(tmp_path / "repo" / "sub" / "crush.json", tree)
    config = load(tmp_path)
    assert (config.model_problem, config.models["large"].provider) == ("", "builtin")


def test_configured_models_replace_those_of_the_catalogue(tmp_path: Path) -> None:
    write(
        tmp_path / "repo" / "sub" / "crush.json",
        {"providers": {"openai": {"models": [{"id": "gpt-5.4", "name": "Own", "context_window": 5}]}}},
    )
    config = load(tmp_path, {"OPENAI_API_KEY": "k" * 20})
    assert config.models["large"].model == "gpt-5.4"
    names = [model.name for model in config.providers["openai"].models if model.id == "gpt-5.4"]
    assert names == ["Own"]


def test_default_providers_can_be_disabled(tmp_path: Path) -> None:
    write(tmp_path / "repo" / "sub" / "crush.json", {"options": {"disable_default_providers": True}})
    assert list(load(tmp_path, {"OPENAI_API_KEY": "k" * 20}).providers) == ["builtin"]


def test_a_header_that_cannot_be_expanded_stops_the_load(tmp_path: Path) -> None:
    write(
        tmp_path / "repo" / "sub" / "crush.json",
        {"providers": {"p": {"base_url": "http://x", "extra_headers": {"a": "${X:?no x}"}}}},
    )
    with pytest.raises(BadInput, match="no x"):
        load(tmp_path)


def test_the_configuration_for_clients_is_valid_and_masks_each_secret(tmp_path: Path) -> None:
    write(
        tmp_path / "repo" / "sub" / "crush.json",
        {
            "options": {"tui": {"compact_mode": True}, "disabled_tools": ["bash"]},
            "mcp": {"m": {"type": "http", "url": "http://x", "headers": {"A": "secret-1"}, "env": {"B": "secret-2"},
                          "oauth_client_secret": "secret-3", "disabled": False}},
            "env": {"C": "secret-4"},
            "lsp": None,
            "hooks": None,
            "server": {"anything": 1},
        },
    )  # fmt: skip
    config = load(tmp_path)
    wire = json.loads(config.wire())
    assert b"secret-" not in config.wire()
    assert wire["options"]["tui"] == {"compact_mode": True}
    assert wire["mcp"]["m"]["type"] == "http"
    assert wire["mcp"]["m"]["disabled"] is False
    assert wire["env"] == {"C": "***"}
    assert {"hooks", "lsp", "server"}.isdisjoint(wire)
    assert wire["providers"]["builtin"]["models"][0]["id"] == "script"
    assert wire["models"]["large"] == {"model": "script", "provider": "builtin"}
    assert config.options.disabled_tools == ["bash"]
    write(tmp_path / "repo" / "sub" / "crush.json", {})
    assert json.loads(load(tmp_path).wire())["options"]["tui"] == {}


# --- environment ----------------------------------------------------------------------------------


def test_the_section_env_is_expanded_in_order_and_used_by_providers(tmp_path: Path) -> None:
    write(
        tmp_path / "repo" / "sub" / "bulkhead.json",
        {
            "env": {
                "Z_LAST": "${B_TOKEN}/z",
                "B_TOKEN": '$(printf %s "$A")-token-of-16-letters',
                "A": "${OUTSIDE:-a}",
            },
            "providers": {"p": {"base_url": "http://x", "api_key": "$B_TOKEN"}},
        },
    )
    config = load(tmp_path, {"OUTSIDE": "o"})
    assert list(config.env.items()) == [
        ("A", "o"),
        ("B_TOKEN", "o-token-of-16-letters"),
        ("Z_LAST", "o-token-of-16-letters/z"),
    ]
    assert config.providers["p"].api_key == "o-token-of-16-letters"
    assert "o-token-of-16-letters" in config.secrets
    assert "o-token" not in repr(config)
    assert b"o-token" not in config.wire()


def test_a_variable_that_cannot_be_expanded_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "repo" / "sub" / "bulkhead.json"
    write(path, '{\n "env": {\n  "A": "${MISSING:?say which $SECRET}"\n}}')
    with pytest.raises(BadInput) as caught:
        load(tmp_path, {"SECRET": "hunter2"})
    assert caught.value.message.startswith(f"cannot use {path}: line 3: env.A: cannot expand")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("variable", [{"A=B": "x"}, {"": "x"}, {"A": "x\0y"}, {"A\0": "x"}])
def test_an_invalid_variable_is_an_error_with_its_line(tmp_path: Path, variable: dict[str, str]) -> None:
    write(tmp_path / "repo" / "sub" / "crush.json", {"env": variable})
    with pytest.raises(BadInput, match=r"crush\.json: line \d+: env\..*cannot be a variable"):
        load(tmp_path)


def test_a_header_that_cannot_be_expanded_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "repo" / "sub" / "crush.json"
    write(path, '{"providers": {"p": {"base_url": "http://x", "extra_headers": {\n"A": "ok",\n"B": "$(exit 3)"}}}}')
    with pytest.raises(BadInput) as caught:
        load(tmp_path)
    assert caught.value.message.startswith(f"cannot use {path}: line 3: providers.p.extra_headers.B: cannot expand")
    assert "status 3" in caught.value.message


def test_variables_with_the_prefix_crush_count_without_it_while_providers_are_loaded(tmp_path: Path) -> None:
    write(tmp_path / "repo" / "sub" / "crush.json", {"env": {"SEEN": "${ANTHROPIC_API_KEY:-no}"}})
    config = load(tmp_path, {"CRUSH_ANTHROPIC_API_KEY": "sk-of-crush-12345", "ANTHROPIC_API_KEY": ""})
    assert config.providers["anthropic"].api_key == "sk-of-crush-12345"
    assert config.env["SEEN"] == "no"


@pytest.mark.parametrize("word", ["1", "true", "YES"])
def test_default_providers_can_be_disabled_by_the_environment(tmp_path: Path, word: str) -> None:
    env = {"OPENAI_API_KEY": "k" * 20, "CRUSH_DISABLE_DEFAULT_PROVIDERS": word}
    assert list(load(tmp_path, env).providers) == ["builtin"]


def test_the_older_key_of_the_trailer_counts_where_the_newer_one_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "repo" / "sub" / "crush.json"
    for written, style in [
        ({}, "assisted-by"),
        ({"co_authored_by": True}, "co-authored-by"),
        ({"co_authored_by": False}, "none"),
        ({"co_authored_by": False, "trailer_style": "assisted-by"}, "assisted-by"),
    ]:
        write(path, {"options": {"attribution": written}})
        assert load(tmp_path).options.attribution.trailer_style == style


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("state", "{work}/state"),
        ("../beside/./x", "{work}/../beside/x"),
        ("$HOME/data", "{home}/data"),
        ("~/data", "{home}/data"),
        ("/abs", "/abs"),
        ("", "{work}/.bulkhead"),
        ("$", "{work}/.bulkhead"),
        ("$(touch ran)", "{work}/.bulkhead"),
        ("a\0b", "{work}/.bulkhead"),
        (5, "{work}/.bulkhead"),
    ],
)
def test_the_configured_data_directory_is_expanded(tmp_path: Path, written: int | str, expected: str) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    write(work / "bulkhead.json", {"options": {"data_directory": written}})
    write(work / ".bulkhead" / "bulkhead.json", {"options": {"data_directory": "ignored"}})
    env = {"HOME": str(home)}
    directory = Path(os.path.normpath(expected.format(work=work, home=home)))
    assert data_dir_of(work, work / ".bulkhead", env) == directory
    assert data_dir_of(work, work / "asked", env) == work / "asked"
    assert not (work / "ran").exists()


def test_broken_files_do_not_move_the_data_directory(tmp_path: Path) -> None:
    write(tmp_path / "bulkhead.json", "{")
    assert data_dir_of(tmp_path, tmp_path / ".bulkhead", {}) == tmp_path / ".bulkhead"


def test_a_data_directory_outside_belongs_to_its_first_workspace(tmp_path: Path) -> None:
    work, shared = tmp_path / "work", tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "link").symlink_to("work")
    first, second = WorkspaceId("00000000-0000-4000-8000-000000000001"), WorkspaceId("x")
    assert own_place(work, shared, first) == shared
    write_mark(shared, first)
    assert own_place(work, shared, first) == shared
    assert own_place(work, shared, second) == shared / second
    inside = work / "data"
    inside.mkdir(parents=True)
    write_mark(inside, first)  # copied together with the folder
    assert own_place(work, inside, second) == inside
    assert own_place(work, tmp_path / "link" / "data", second) == tmp_path / "link" / "data"
