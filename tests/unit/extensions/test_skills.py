"""Test skills: which files are valid, where they are searched, and which one wins when two have the same name."""

import os
from pathlib import Path

import pytest

from worker.skills.discovery import BUILTIN, Cache, Skills, discover, read_bytes
from worker.skills.skill import HEAD_LENGTH_MAX, BadSkill, note, read_head


def head(name: str = "paint", description: str = "How to paint", *more: str) -> str:
    return "\n".join(["---", f"name: {name}", f"description: {description}", *more, "---", "Do it."])


def put(root: Path, directory: str, text: str) -> Path:
    file = root / directory / "SKILL.md"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def names(result: Skills) -> list[str]:
    return [skill.name for skill in result.usable if skill.source != "system"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("no head", "no head"),
        ("---\nname: paint\n", "no head"),
        ("---\nname: [\n---\n", "not YAML"),
        ("---\nname: paint\n---\n", "description"),
        ("---\n- a\n---\n", "wrong"),
        (head("other"), "that of its directory"),
        (head("pa--int"), "single hyphens"),
        (head(description="x" * 1025), "description"),
        (head("paint", "d", "user-invocable: [1]"), "user-invocable"),
        (head("paint", "d", "metadata: {a: &a [x], b: [*a, *a]}"), "aliases"),
        (head("paint", "d", "<<: &a {x: 1}", "more: {<<: *a}"), "aliases"),
        (head("paint", "d", "deep: " + "[" * 21 + "]" * 21), "nested more than 20 levels"),
        (head("paint", "d", "deep: " + "[" * 30_000 + "]" * 30_000), "nested more than 20 levels"),
        (head("paint", "d", "deep: " + "{a: " * 9_000), "nested more than 20 levels"),
        (head("paint", "d", *(f"{' ' * depth}a:" for depth in range(300))), "nested more than 20 levels"),
        (head("paint", "d", "x: " + "y" * HEAD_LENGTH_MAX), "longer than"),
    ],
)
def test_an_invalid_skill_is_refused_with_the_reason(text: str, error: str) -> None:
    with pytest.raises(BadSkill, match=error):
        read_head(text, "paint")


def test_a_head_is_read_with_its_flags() -> None:
    skill = read_head(
        "\ufeff" + head("Paint", "d", "user-invocable: true", "unknown: 1").replace("\n", "\r\n"), "paint"
    )
    assert (skill.name, skill.user_invocable, skill.disable_model_invocation) == ("Paint", True, False)


def test_the_builtin_skills_are_valid(tmp_path: Path) -> None:
    result = discover(tmp_path, {})
    assert [skill.source for skill in result.usable] == ["system"] * len(os.listdir(BUILTIN))
    assert all(not file.error for file in result.files)
    assert "bulkhead-config" in note(result.usable)


def test_a_skill_of_the_project_wins_over_one_of_the_user_with_the_same_name(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    put(home, ".claude/skills/paint", head(description="the user's"))
    put(home, ".config/bulkhead/skills/sand", head("sand"))
    own = put(work, ".agents/skills/paint", head(description="the project's"))
    result = discover(work, {"HOME": str(home)})
    assert names(result) == ["paint", "sand"]
    paint = result.usable[[skill.name for skill in result.usable].index("paint")]
    assert (paint.description, paint.source, paint.path) == ("the project's", "project", str(own))
    assert own.parent in result.roots


def test_the_root_of_the_worktree_is_searched_too(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    work = tmp_path / "deep" / "down"
    work.mkdir(parents=True)
    put(tmp_path, ".claude/skills/paint", head())
    assert names(discover(work, {})) == ["paint"]


def test_configured_and_linked_directories_are_searched_and_disabled_skills_left_out(tmp_path: Path) -> None:
    put(tmp_path, "mine/group/paint", head())
    put(tmp_path, "mine/sand", head("sand"))
    (tmp_path / ".crush").mkdir()
    (tmp_path / ".crush" / "skills").symlink_to(tmp_path / "mine")
    assert names(discover(tmp_path, {}, extra=["mine"])) == ["paint", "sand"]
    assert names(discover(tmp_path, {}, disabled=["sand"])) == ["paint"]


def test_an_invalid_skill_is_reported_and_the_others_are_used(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/paint", head())
    put(tmp_path, ".agents/skills/broken", "nothing")
    result = discover(tmp_path, {})
    assert names(result) == ["paint"]
    assert [file.name for file in result.files if file.error] == ["broken"]


def test_a_skill_is_read_again_only_when_its_file_changed(tmp_path: Path) -> None:
    cache: Cache = {}
    file = put(tmp_path, ".agents/skills/paint", head())
    first = discover(tmp_path, {}, cache=cache)
    assert discover(tmp_path, {}, cache=cache).usable[-1] is first.usable[-1]
    file.write_text(head(description="another text"))
    assert discover(tmp_path, {}, cache=cache).usable[-1].description == "another text"
    file.unlink()
    assert names(discover(tmp_path, {}, cache=cache)) == []
    assert str(file) not in cache


def test_a_pipe_is_not_a_skill_and_does_not_block_the_discovery(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/paint", head())
    os.mkdir(tmp_path / ".agents/skills/pipe")
    os.mkfifo(tmp_path / ".agents/skills/pipe/SKILL.md")
    result = discover(tmp_path, {})
    assert names(result) == ["paint"]
    assert [file.error for file in result.files if file.name == "pipe"] == ["it is not a file"]


def test_reading_a_skill_that_became_a_pipe_fails_without_waiting(tmp_path: Path) -> None:
    file = put(tmp_path, ".agents/skills/paint", head())
    assert read_bytes(file) == head().encode()
    file.unlink()
    os.mkfifo(file)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="not a file"):
        read_bytes(file)
    assert len(os.listdir("/proc/self/fd")) == before


def test_links_that_form_a_cycle_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/group/paint", head())
    for number in range(100):  # following every combination would visit a hundred million paths
        (tmp_path / f".agents/skills/a{number}").symlink_to(tmp_path / ".agents/skills")
    (tmp_path / ".agents/skills/loop").mkdir()
    (tmp_path / ".agents/skills/loop/SKILL.md").symlink_to("SKILL.md")
    assert names(discover(tmp_path, {})) == ["paint"]


def test_a_link_with_another_name_does_not_hide_the_skill(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/paint", head())
    (tmp_path / ".agents/skills/a-link").symlink_to("paint")
    assert names(discover(tmp_path, {})) == ["paint"]


def test_a_skill_whose_path_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, os.fsdecode(b".agents/skills/pai\xffnt"), head())
    assert [file for file in discover(tmp_path, {}).files if "pai" in file.path] == []


def test_disabled_names_are_compared_without_case(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/paint", head("Paint"))
    assert names(discover(tmp_path, {}, disabled=["pAINT"])) == []


def test_configured_directories_are_expanded_with_the_environment_of_the_workspace(tmp_path: Path) -> None:
    put(tmp_path, "mine/paint", head())
    put(tmp_path, "home/more/sand", head("sand"))
    env = {"OWN": str(tmp_path / "mine"), "HOME": str(tmp_path / "home")}
    assert names(discover(tmp_path, env, extra=["$OWN", "~/more"])) == ["paint", "sand"]
    assert names(discover(tmp_path, env, extra=["${OWN}", "$NOT_SET", "$NOT_SET/mine", ""])) == ["paint"]


def test_the_note_for_the_system_prompt_escapes_text_and_leaves_out_hidden_skills(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/paint", head(description="Paint <walls>"))
    put(tmp_path, ".agents/skills/secret", head("secret", "d", "disable-model-invocation: true"))
    text = note(discover(tmp_path, {}).usable)
    assert "Paint &lt;walls&gt;" in text
    assert "secret" not in text
    assert note(()) == ""
