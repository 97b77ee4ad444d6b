"""The rules of the house that no other tool checks."""

import ast
import re
from pathlib import Path

import pytest

from protocol.base.failpoints import POINTS
from tests.architecture.files import IMPURE_MODULES, PACKAGES, PURE, ROOT, imports, name_of, sources, tree

LINES_MAX = 500

ENTRIES = {
    *("supervisor/__main__.py", "supervisor/local_model/server.py"),
    *("worker/__main__.py", "worker/zygote/__main__.py", "worker/tools/search/grep_child.py", "worker/config/show.py"),
}
"""Started by command line, not imported."""

OWN_TIME = {
    "protocol/base/clock.py",
    "protocol/base/logs.py",  # a stamp for people
    "protocol/base/marker_scan.py",  # blocks, on a thread of its callers
    "supervisor/cli/terminal/formatting.py",  # the same
    "supervisor/launch/process_sweep.py",  # blocks, on a thread of its own
    "worker/zygote/preload.py",  # blocks, in the zygote
    "worker/store/lock.py",  # blocks, before there is a loop
    "worker/zygote/server.py",  # never has a loop
}
"""Who asks the machine for the time, and why."""

TASKS = "protocol/base/tasks.py"


@pytest.mark.parametrize("name", PURE)
def test_pure_files_do_nothing_but_think(name: str) -> None:
    path = ROOT / name
    for module in imports(path):
        assert not any(module == bad or module.startswith(f"{bad}.") for bad in IMPURE_MODULES), f"{name}: {module}"
        if module.partition(".")[0] in PACKAGES and module not in _ALLOWED:
            file = module.replace(".", "/") + ".py"
            assert file in PURE or (ROOT / module.replace(".", "/")).is_dir(), f"{name} imports {module}, not pure"


_ALLOWED = {
    # Plain data or one small Protocol, beside something that is not pure.
    "protocol.base.clock",
    "worker.config.catalogue",
    "worker.agent.transcript",
}


def test_no_file_is_too_long() -> None:
    paths = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    # A test file may be a long list of cases; a file of the product has one job.
    long = {name_of(p): n for p in paths if (n := len(p.read_text().splitlines())) > _allowed_lines(p)}
    assert long == {}, f"look for the second thing in these files: {long}"


def test_D10_only_the_store_opens_a_database() -> None:
    allowed = {
        "worker/store/database_file.py",
        "worker/zygote/warm_store.py",
    }  # the one connection; one in memory, before the fork
    found = set()
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sqlite3.connect":
                found.add(name_of(path))
            if isinstance(node, ast.Constant) and node.value == "workspace.db":
                assert name_of(path) == "worker/app.py", f"{name_of(path)} names the database"
    assert found == allowed, "backups use the backup API on the worker's own connection"


def _allowed_lines(path: Path) -> int:
    return LINES_MAX if name_of(path).partition("/")[0] in PACKAGES else 2 * LINES_MAX


def test_packages_begin_empty() -> None:
    filled = [name_of(path) for path in sources() if path.name == "__init__.py" and path.read_text().strip()]
    assert filled == [], "a subcommand or a fork pays for what stands there"


def test_every_file_says_what_it_is_for() -> None:
    silent = [name_of(path) for path in sources() if path.name != "__init__.py" and not ast.get_docstring(tree(path))]
    assert silent == []


def test_no_file_is_dead() -> None:
    used = {module for path in sources() for module in imports(path)} | _lazily_used()
    for path in sources():
        name = name_of(path)
        if path.name == "__init__.py" or name in ENTRIES:
            continue
        assert name.removesuffix(".py").replace("/", ".") in used, f"nothing imports {name}"


def _lazily_used() -> set[str]:
    from supervisor.cli.main import COMMANDS

    targets = {f"supervisor.cli.commands.{where.partition(':')[0]}" for where, _ in COMMANDS.values()}
    return targets | {"supervisor.cli.main"}


def test_every_failpoint_is_used_and_named_in_a_test() -> None:
    code = "\n".join(path.read_text() for path in sources() if path.name != "failpoints.py")
    tests = "\n".join(
        path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path.name != Path(__file__).name
    )
    assert [point for point in POINTS if f'"{point}"' not in code] == [], "points without a place in the code"
    assert [point for point in POINTS if point not in tests] == [], "points that no test stops at"


def test_tasks_are_started_by_their_owner() -> None:
    bare = re.compile(r"asyncio\.(create_task|ensure_future)\(|\.create_task\(")
    found = [name_of(path) for path in sources() if bare.search(path.read_text()) and name_of(path) != TASKS]
    assert found == [], "start tasks through protocol.base.tasks.TaskOwner"


def test_time_comes_from_the_clock() -> None:
    for path in sources():
        name = name_of(path)
        if name in OWN_TIME:
            continue
        for node in ast.walk(tree(path)):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="time" | "monotonic" | "sleep")):
                    pytest.fail(f"{name}:{node.lineno}: take the time from the Clock that was given")


def test_no_machine_path_and_no_stray_word() -> None:
    stray = re.compile(r"/work/|/home/(?!you/)\w+/|TO" + r"DO|FIX" + r"ME|XX" + "X")
    for path in [*sources(), ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md")]:
        assert not (found := stray.search(path.read_text())), f"{name_of(path)}: {found}"
