"""Find the skills in their directories, and say why a file is not one. Blocks.

Of two skills with the same name the later one wins: first the built-in ones, then the user's, then the project's.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.config.expand import expand_path
from worker.config.files import project_dirs
from worker.skills.skill import FILE_NAME, BadSkill, Skill, Source, name_of, read_head

BUILTIN = Path(__file__).parent / "builtin"
FILE_MAX_BYTES = 1024 * 1024
DEPTH_MAX = 4
FILES_MAX = 500
DIRECTORIES_MAX = 2000
"""Directories searched below one root: a link may lead to the root of the file system."""
_USER = ("bulkhead/skills", "crush/skills", "agents/skills")
_PROJECT = (".agents/skills", ".bulkhead/skills", ".crush/skills", ".claude/skills", ".cursor/skills")


@dataclass(frozen=True)
class SkillFile:
    """One file with the name of a skill file; `error` says why it is not a skill, "" if it is."""

    name: str
    path: str
    error: str = ""


@dataclass(frozen=True)
class Skills:
    """The result of a search. `usable` are the skills in the order of their names, `roots` their directories."""

    usable: tuple[Skill, ...] = ()
    files: tuple[SkillFile, ...] = ()
    roots: tuple[Path, ...] = ()


Cache = dict[str, tuple[tuple[int, int, int], "Skill | BadSkill"]]
"""The skill of each file, and the state of the file when it was read: parsing YAML is slow, and turns begin often."""


def discover(
    workspace: Path,
    env: Mapping[str, str],
    *,
    extra: Sequence[str] = (),
    disabled: Sequence[str] = (),
    cache: Cache | None = None,
) -> Skills:
    """Search all directories. `extra` are configured ones; skills named in `disabled` are left out.

    `cache` is used and updated.
    """
    old, new = cache or {}, Cache()
    skills: dict[str, Skill] = {}
    files: list[SkillFile] = []
    seen: set[str] = set()
    left_out = {name.lower() for name in disabled}
    for directory, source in _directories(workspace, env, extra):
        for file in _files(directory):
            real = os.path.realpath(file)
            if real in seen or len(files) >= FILES_MAX:
                continue
            try:
                skill = _read_cached(file, source, old, new)
            except BadSkill as error:
                files.append(SkillFile(name_of(str(file)), str(file), str(error)))
                continue
            seen.add(real)
            if skill.name.lower() in left_out:
                continue
            files.append(SkillFile(skill.name, skill.path))
            skills[skill.name.lower()] = skill
    if cache is not None:
        cache.clear()
        cache.update(new)
    usable = tuple(sorted(skills.values(), key=lambda skill: skill.name.lower()))
    roots = tuple(dict.fromkeys(Path(os.path.realpath(Path(skill.path).parent)) for skill in usable))
    return Skills(usable, tuple(files), roots)


def _directories(workspace: Path, env: Mapping[str, str], extra: Sequence[str]) -> Iterator[tuple[Path, Source]]:
    yield BUILTIN, "system"
    home = env.get("HOME")
    own = env.get("BULKHEAD_SKILLS_DIR") or env.get("CRUSH_SKILLS_DIR")
    if own:
        yield Path(own), "user"
    elif home:
        config = Path(env.get("XDG_CONFIG_HOME") or f"{home}/.config")
        for name in _USER:
            yield config / name, "user"
        yield Path(home, ".agents/skills"), "user"
        yield Path(home, ".claude/skills"), "user"
    for directory in dict.fromkeys((project_dirs(workspace)[0], workspace)):
        for name in _PROJECT:
            yield directory / name, "project"
    for name in extra:
        if path := expand_path(name, env):
            yield workspace / path, "project" if not Path(path).is_absolute() else "user"


def _files(directory: Path) -> Iterator[Path]:
    """Yield the skill files below a directory in the order of their paths.

    Links are followed; the depth is bounded, and no directory is read twice.
    """
    yield from _search(directory, 0, set())


def _search(directory: Path, depth: int, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = directory.stat()
        names = sorted(os.listdir(directory))
    except (OSError, ValueError):
        return
    if FILE_NAME in names:
        yield directory / FILE_NAME
        return
    if (status.st_dev, status.st_ino) in seen or len(seen) >= DIRECTORIES_MAX:
        return
    seen.add((status.st_dev, status.st_ino))
    for name in names:
        path = directory / name
        if depth < DEPTH_MAX and not name.startswith(".") and _is_text(name) and os.path.isdir(path):
            yield from _search(path, depth + 1, seen)


def _is_text(name: str) -> bool:
    """Return whether the name can be sent to clients."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_cached(file: Path, source: Source, old: Cache, new: Cache) -> Skill:
    """Read the skill of a file, again only if the file has changed. Raises BadSkill."""
    try:
        status = file.stat()
    except OSError as error:
        raise BadSkill(f"the file cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
        raise BadSkill("it is not a file")
    state = (status.st_ino, status.st_size, status.st_mtime_ns)
    cached = old.get(str(file))
    if cached is not None and cached[0] == state:
        result = cached[1]
    else:
        try:
            result = _read(file, source)
        except BadSkill as error:
            result = error
    new[str(file)] = (state, result)
    if isinstance(result, BadSkill):
        raise BadSkill(str(result))
    return result


def read_bytes(file: Path) -> bytes:
    """Read a skill file, at most one byte more than it may have. Raises OSError, also unless it is a regular file."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # it may be a pipe by now
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        with open(descriptor, "rb", closefd=False) as opened:
            return opened.read(FILE_MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _read(file: Path, source: Source) -> Skill:
    try:
        data = read_bytes(file)
        text = data.decode()
    except OSError as error:
        raise BadSkill(f"the file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadSkill("the file is not UTF-8 text") from None
    if len(data) > FILE_MAX_BYTES:
        raise BadSkill(f"the file is larger than {FILE_MAX_BYTES} bytes")
    head = read_head(text, file.parent.name)
    return Skill(
        name=head.name,
        description=head.description,
        path=str(file),
        source=source,
        user_invocable=head.user_invocable,
        for_model=not head.disable_model_invocation,
    )
