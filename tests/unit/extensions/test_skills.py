"""Skills: what is one, where they are searched, and which of two with the same name wins."""

import os
from pathlib import Path
from typing import Any

import pytest

from worker.skills.discovery import BUILTIN, Cache, discover, read_bytes
from worker.skills.skill import HEAD_LENGTH_MAX, BadSkill, note, read_head


def head(name: str = "paint", description: str = "How to paint", *more: str) -> str:
    return "\n".join(["---", f"name: {name}", f"description: {description}", *more, "---", "Do it."])


def put(root: Path, where: str, text: str) -> Path:
    file = root / where / "SKILL.md"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def names(found) -> list[str]:
    return [skill.name for skill in found.usable if skill.source != "system"]


@pytest.mark.parametrize(
    ("text", "said"),
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
def test_what_is_no_skill_says_why(text: Any, said: str) -> None:
    with pytest.raises(BadSkill, match=said):
        read_head(text, "paint")


def test_a_head_is_read_with_its_flags() -> None:
    found = read_head(
        "\ufeff" + head("Paint", "d", "user-invocable: true", "unknown: 1").replace("\n", "\r\n"), "paint"
    )
    assert (found.name, found.user_invocable, found.disable_model_invocation) == ("Paint", True, False)


def test_the_builtin_skills_are_whole(tmp_path: Path) -> None:
    found = discover(tmp_path, {})
    assert [skill.source for skill in found.usable] == ["system"] * len(os.listdir(BUILTIN))
    assert all(not file.error for file in found.files)
    assert "bulkhead-config" in note(found.usable)


def test_of_two_with_one_name_the_project_counts(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    put(home, ".claude/skills/paint", head(description="the user's"))
    put(home, ".config/bulkhead/skills/sand", head("sand"))
    mine = put(work, ".agents/skills/paint", head(description="the project's"))
    found = discover(work, {"HOME": str(home)})
    assert names(found) == ["paint", "sand"]
    paint = found.usable[[skill.name for skill in found.usable].index("paint")]
    assert (paint.description, paint.source, paint.path) == ("the project's", "project", str(mine))
    assert mine.parent in found.roots


def test_the_root_of_the_worktree_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    work = tmp_path / "deep" / "down"
    work.mkdir(parents=True)
    put(tmp_path, ".claude/skills/paint", head())
    assert names(discover(work, {})) == ["paint"]


def test_configured_directories_links_and_disabled_ones(tmp_path: Path) -> None:
    put(tmp_path, "mine/group/paint", head())
    put(tmp_path, "mine/sand", head("sand"))
    (tmp_path / ".crush").mkdir()
    (tmp_path / ".crush" / "skills").symlink_to(tmp_path / "mine")
    assert names(discover(tmp_path, {}, extra=["mine"])) == ["paint", "sand"]
    assert names(discover(tmp_path, {}, disabled=["sand"])) == ["paint"]


def test_a_broken_one_is_reported_and_the_others_are_used(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/paint", head())
    put(tmp_path, ".agents/skills/broken", "nothing")
    found = discover(tmp_path, {})
    assert names(found) == ["paint"]
    assert [file.name for file in found.files if file.error] == ["broken"]


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    cache: Cache = {}
    file = put(tmp_path, ".agents/skills/paint", head())
    first = discover(tmp_path, {}, cache=cache)
    assert discover(tmp_path, {}, cache=cache).usable[-1] is first.usable[-1]
    file.write_text(head(description="another text"))
    assert discover(tmp_path, {}, cache=cache).usable[-1].description == "another text"
    file.unlink()
    assert names(discover(tmp_path, {}, cache=cache)) == []
    assert str(file) not in cache


def test_a_pipe_is_not_a_skill_and_blocks_nothing(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/paint", head())
    os.mkdir(tmp_path / ".agents/skills/pipe")
    os.mkfifo(tmp_path / ".agents/skills/pipe/SKILL.md")
    found = discover(tmp_path, {})
    assert names(found) == ["paint"]
    assert [file.error for file in found.files if file.name == "pipe"] == ["it is not a file"]


def test_a_skill_that_became_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    file = put(tmp_path, ".agents/skills/paint", head())
    assert read_bytes(file) == head().encode()
    file.unlink()
    os.mkfifo(file)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="not a file"):
        read_bytes(file)
    assert len(os.listdir("/proc/self/fd")) == before


def test_links_that_lead_in_circles_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/group/paint", head())
    for number in range(100):  # each way through them is another path: a hundred million of them
        (tmp_path / f".agents/skills/a{number}").symlink_to(tmp_path / ".agents/skills")
    (tmp_path / ".agents/skills/loop").mkdir()
    (tmp_path / ".agents/skills/loop/SKILL.md").symlink_to("SKILL.md")
    assert names(discover(tmp_path, {})) == ["paint"]


def test_a_link_with_another_name_does_not_hide_the_skill(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/paint", head())
    (tmp_path / ".agents/skills/a-link").symlink_to("paint")
    assert names(discover(tmp_path, {})) == ["paint"]


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, os.fsdecode(b".agents/skills/pai\xffnt"), head())
    assert [file for file in discover(tmp_path, {}).files if "pai" in file.path] == []


def test_disabled_names_count_in_any_case(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/paint", head("Paint"))
    assert names(discover(tmp_path, {}, disabled=["pAINT"])) == []


def test_configured_directories_are_looked_up_in_the_environment_of_the_workspace(tmp_path: Path) -> None:
    put(tmp_path, "mine/paint", head())
    put(tmp_path, "home/more/sand", head("sand"))
    env = {"OWN": str(tmp_path / "mine"), "HOME": str(tmp_path / "home")}
    assert names(discover(tmp_path, env, extra=["$OWN", "~/more"])) == ["paint", "sand"]
    assert names(discover(tmp_path, env, extra=["${OWN}", "$NOT_SET", "$NOT_SET/mine", ""])) == ["paint"]


def test_the_section_of_the_system_prompt(tmp_path: Path) -> None:
    put(tmp_path, ".agents/skills/paint", head(description="Paint <walls>"))
    put(tmp_path, ".agents/skills/secret", head("secret", "d", "disable-model-invocation: true"))
    text = note(discover(tmp_path, {}).usable)
    assert "Paint &lt;walls&gt;" in text
    assert "secret" not in text
    assert note(()) == ""
