"""Test `bulkhead config`, which needs no server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness.command import COMMAND_S, Finished

SECRET = "sk-0123456789abcdef"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a directory below the root of a worktree, with configuration files in several places."""
    write(tmp_path / "home/.config/bulkhead/bulkhead.json", {"permissions": {"allowed_tools": ["ls"]}})
    write(tmp_path / "repo/crush.json", {"permissions": {"allowed_tools": ["view"]}, "options": {"debug": False}})
    path = tmp_path / "repo" / "sub"
    path.mkdir()
    (tmp_path / "repo" / ".git").mkdir()
    (path / ".bulkhead.json").write_text('{\n  "options": {\n    "debug": true\n  }\n}')
    return path


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))


def config(cwd: Path, *arguments: str, **env: str) -> Finished:
    home = next(path / "home" for path in cwd.parents if (path / "home").exists())
    done = subprocess.run(
        [sys.executable, "-P", "-m", "supervisor.cli.main", "config", *arguments],
        cwd=cwd,
        env={"HOME": str(home), "PATH": os.environ["PATH"], "NO_COLOR": "1", "BULKHEAD_LOCAL_MODEL": "0", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def rows(done: Finished) -> dict[str, list[str]]:
    """Return the printed table as key -> the other columns."""
    return {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if len(line.split()) == 3}


def test_every_value_is_shown_with_its_origin(project: Path) -> None:
    done = config(project).expect(0)
    shown = rows(done)
    assert shown["options.debug"] == ["true", ".bulkhead.json:3"]
    assert shown["permissions.allowed_tools[0]"] == ['"ls"', "~/.config/bulkhead/bulkhead.json:4"]
    assert shown["permissions.allowed_tools[1]"] == ['"view"', f"{project.parent}/crush.json:4"]
    assert shown["options.initialize_as"] == ['"AGENTS.md"', "default"]
    assert f"data directory  {project}/.bulkhead\n" in done.out
    assert "large model     builtin/script" in done.out
    assert "scripted model answers" in done.err
    assert not (project / ".bulkhead").exists(), "the command created the data directory"


def test_one_key_or_one_section_can_be_shown(project: Path) -> None:
    (_, columns) = rows(config(project, "options.data_directory").expect(0)).values()
    assert columns == [f'"{project}/.bulkhead"', "default"], "a single value is not shortened"
    lists = rows(config(project, "permissions.allowed_tools").expect(0))
    assert list(lists) == ["KEY", "permissions.allowed_tools[0]", "permissions.allowed_tools[1]"]
    assert {key.partition(".")[0] for key in rows(config(project, "tools").expect(0))} == {"KEY", "tools"}
    wrong = config(project, "options.debgu").expect(1)
    assert "did you mean options.debug?" in wrong.err


def test_json_output_has_one_object_per_line(project: Path) -> None:
    (only,) = config(project, "options.debug", "--json").expect(0).lines()
    assert only == {"key": "options.debug", "value": True, "file": str(project / ".bulkhead.json"), "line": 3}
    keys = [line["key"] for line in config(project, "--json").expect(0).lines()]
    assert len(keys) == len(set(keys)) > 20


def test_sources_are_listed_in_reading_order_with_their_status(project: Path) -> None:
    (project / "bulkhead.json").write_text("")
    (project / "crushrc").write_text("provider add x\n")
    done = config(project, "--sources", "--json").expect(0)
    files = {line["path"]: line["status"] for line in done.lines()}
    paths = [path for path in files if path.startswith(str(project.parent))]
    assert [Path(path).relative_to(project.parent).as_posix() for path in paths] == [
        *("crush.json", ".crush.json", "bulkhead.json", ".bulkhead.json"),
        *("sub/crush.json", "sub/.crush.json", "sub/bulkhead.json", "sub/.bulkhead.json", "sub/crushrc"),
        *("sub/.bulkhead/crush.json", "sub/.bulkhead/bulkhead.json"),
    ]
    assert files[str(project / "bulkhead.json")] == "empty"
    assert files[str(project / "crushrc")] == "not read"
    assert files[str(project / "crush.json")] == "missing"
    assert files[str(project.parent / "crush.json")] == "used"
    assert "crushrc is not read" in done.err
    text = config(project, "--sources").expect(0).out
    assert text.index("STATUS") < text.index(".bulkhead.json") < text.index("KEY")


def test_secrets_are_masked_and_references_are_not(project: Path) -> None:
    providers = {
        "a": {"base_url": "http://user:pw@x", "api_key": SECRET, "extra_headers": {"X-Any": "short"}},
        "b": {"base_url": f"http://x/{SECRET}", "api_key": "$MY_KEY", "models": [{"id": "m"}]},
        "c": {"base_url": "http://x", "api_key": f"${{MY_KEY:-{SECRET}}}"},
    }
    write(project / "bulkhead.json", {"providers": providers, "env": {"PLAIN": "value-of-env", "REF": "$MY_KEY"}})
    done = config(project, MY_KEY=SECRET).expect(0)
    for text in (SECRET, "pw@", "short", "value-of-env"):
        assert text not in done.out + done.err
    shown = rows(done)
    assert shown["providers.a.api_key"][0] == shown["providers.c.api_key"][0] == '"***"'
    assert shown["providers.b.api_key"][0] == shown["env.REF"][0] == '"$MY_KEY"'
    assert shown["providers.b.models[0].id"][0] == '"m"'


def test_all_mistakes_are_listed(project: Path) -> None:
    (project / "bulkhead.json").write_text('{"options": {\n"progress": 1,\n"debug_lsp": 2}}')
    done = config(project).expect(1)
    assert f"{project}/bulkhead.json: line 2: options.progress must be true or false, not 1" in done.err
    assert f"{project}/bulkhead.json: line 3: options.debug_lsp must be true or false, not 2" in done.err
    assert rows(done)["options.progress"] == ["1", "bulkhead.json:2"]


def test_a_file_with_invalid_json_is_named_and_the_others_are_shown(project: Path) -> None:
    (project / "bulkhead.json").write_text('{"options": {\n"progress" true}}')
    done = config(project, "--sources").expect(1)
    assert f"cannot read {project}/bulkhead.json: line 2, column 12" in done.err
    assert "broken" in done.out
    assert rows(done)["options.debug"] == ["true", ".bulkhead.json:3"]


def test_another_directory_can_be_shown_and_must_exist(project: Path) -> None:
    shown = rows(config(project.parent, "--workspace", "sub", "options.debug").expect(0))
    assert shown["options.debug"] == ["true", ".bulkhead.json:3"]
    assert "no such directory" in config(project, "-C", "nowhere").expect(1).err


def test_a_template_that_fails_is_reported(project: Path) -> None:
    write(project / "bulkhead.json", {"env": {"A": "$(exit 4)"}})
    assert "line 3: env.A: cannot expand '$(exit 4)': the command ended with status 4" in config(project).expect(1).err


def test_colours_are_used_only_on_terminals(project: Path) -> None:
    assert "\x1b[" not in config(project, "--sources").expect(0).out
    coloured: dict[str, Any] = {"NO_COLOR": "", "FORCE_COLOR": "1"}
    assert "\x1b[32mused\x1b[0m" in config(project, "--sources", **coloured).expect(0).out
