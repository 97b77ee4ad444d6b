"""Check the rules of the code that no other tool checks: layering of pure files, sizes, dead files, clocks, tasks."""

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
"""Files that are started from a command line, not imported."""

OWN_TIME = {
    "protocol/base/clock.py",
    "protocol/base/logs.py",  # wall-clock time, for display
    "protocol/base/marker_scan.py",  # blocks, on a thread of its callers
    "supervisor/cli/terminal/formatting.py",  # the same
    "supervisor/launch/process_sweep.py",  # blocks, on a thread of its own
    "worker/zygote/preload.py",  # blocks, in the zygote
    "worker/store/lock.py",  # blocks, before there is a loop
    "worker/zygote/server.py",  # never has a loop
    "worker/zygote/template.py",  # the same
    "worker/zygote/template_pool.py",  # the same
}
"""Files that read the time from the system, and why."""

TASKS = "protocol/base/tasks.py"


@pytest.mark.parametrize("name", PURE)
async def test_pure_files_import_nothing_impure(name: str) -> None:
    path = ROOT / name
    for module in imports(path):
        assert not any(module == bad or module.startswith(f"{bad}.") for bad in IMPURE_MODULES), f"{name}: {module}"
        if module.partition(".")[0] in PACKAGES and module not in _ALLOWED:
            file = module.replace(".", "/") + ".py"
            assert file in PURE or (ROOT / module.replace(".", "/")).is_dir(), f"{name} imports {module}, not pure"


_ALLOWED = {
    # Only plain data or a small Protocol is used of these; the rest of the file is not pure.
    "protocol.base.clock",
    "worker.config.catalogue",
    "worker.agent.transcript",
}


async def test_no_file_is_too_long() -> None:
    paths = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    # A test file may be a long list of cases; a source file should have one job.
    long = {name_of(p): n for p in paths if (n := len(p.read_text().splitlines())) > _allowed_lines(p)}
    assert long == {}, f"split these files: {long}"


async def test_D10_only_the_store_opens_a_database() -> None:
    allowed = {
        "worker/store/database_file.py",
        "worker/zygote/warm_store.py",
    }  # the one connection; one in memory, before the fork
    openers = set()
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sqlite3.connect":
                openers.add(name_of(path))
            if isinstance(node, ast.Constant) and node.value == "workspace.db":
                assert name_of(path) == "worker/app.py", f"{name_of(path)} names the database"
    assert openers == allowed, "use the worker's own connection; backups use its backup API"


def _allowed_lines(path: Path) -> int:
    return LINES_MAX if name_of(path).partition("/")[0] in PACKAGES else 2 * LINES_MAX


async def test_packages_have_an_empty_init_file() -> None:
    filled = [name_of(path) for path in sources() if path.name == "__init__.py" and path.read_text().strip()]
    assert filled == [], "every subcommand and every fork would pay for its content"


async def test_every_file_has_a_docstring() -> None:
    undocumented = [
        name_of(path) for path in sources() if path.name != "__init__.py" and not ast.get_docstring(tree(path))
    ]
    assert undocumented == []


async def test_no_file_is_dead() -> None:
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


async def test_every_failpoint_is_used_and_named_in_a_test() -> None:
    code = "\n".join(path.read_text() for path in sources() if path.name != "failpoints.py")
    tests = "\n".join(
        path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path.name != Path(__file__).name
    )
    assert [point for point in POINTS if f'"{point}"' not in code] == [], "failpoints that are not in the code"
    assert [point for point in POINTS if point not in tests] == [], "failpoints that no test uses"


async def test_tasks_are_started_by_their_owner() -> None:
    bare = re.compile(r"asyncio\.(create_task|ensure_future)\(|\.create_task\(")
    starters = [name_of(path) for path in sources() if bare.search(path.read_text()) and name_of(path) != TASKS]
    assert starters == [], "start tasks through protocol.base.tasks.TaskOwner"


async def test_time_comes_from_the_clock() -> None:
    for path in sources():
        name = name_of(path)
        if name in OWN_TIME:
            continue
        for node in ast.walk(tree(path)):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="time" | "monotonic" | "sleep")):
                    pytest.fail(f"{name}:{node.lineno}: use the Clock that is passed in")


async def test_no_path_of_a_machine_and_no_leftover_mark() -> None:
    leftover = re.compile("/wo" + r"rk/|/home/(?!you/)\w+/|TO" + r"DO|FIX" + r"ME|XX" + "X")
    for path in [*sources(), ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md")]:
        assert not (match := leftover.search(path.read_text())), f"{name_of(path)}: {match}"
