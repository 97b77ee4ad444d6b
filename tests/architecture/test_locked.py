"""The lock files hold what pyproject.toml asks for, and no address of a package index."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.architecture.files import ROOT

LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def pinned(name: str) -> dict[str, str]:
    """The locked version of each package, by its name in lower case, for the Python that runs the test."""
    found = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                [specifier] = requirement.specifier
                assert specifier.operator == "=="
                found[requirement.name.lower()] = specifier.version
    return found


def wanted() -> list[tuple[str, Requirement]]:
    """What pyproject.toml asks for, beside the lock file that must have it."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = content["project"]
    texts = [("dev.lock", text) for text in project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        texts += [("dev.lock", text) for text in extra]
    texts += [("contract.lock", text) for text in content["dependency-groups"]["contract"]]
    lines = (ROOT / "requirements" / "local-model.in").read_text().splitlines()
    texts += [("local-model.lock", line) for line in lines if not line.startswith("#")]
    found = [(lock, Requirement(text)) for lock, text in texts]
    return [(lock, one) for lock, one in found if one.name != project["name"]]


@pytest.mark.parametrize(("lock", "requirement"), wanted(), ids=str)
async def test_what_pyproject_asks_for_is_locked(lock: str, requirement: Requirement) -> None:
    version = pinned(lock).get(requirement.name.lower())
    assert version is not None, f"{requirement.name} is not in {lock}: run `make lock`"
    assert version in requirement.specifier, f"{lock} has {version}, not {requirement}: run `make lock`"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
async def test_a_lock_names_no_index(path: Path) -> None:
    allowed = re.compile(r"#.*|[a-z0-9-]+==[^ /@:]+( ; .+)?")
    assert [line for line in path.read_text().splitlines() if not allowed.fullmatch(line)] == []


async def test_the_lock_of_the_mcp_servers_names_no_registry() -> None:
    packages = json.loads((ROOT / "tests" / "mcp" / "package-lock.json").read_text())["packages"]
    assert len(packages) > 10
    assert [name for name, package in packages.items() if "resolved" in package] == []
