"""The summary line of CI adds up the reports of pytest and schemathesis, and hides no failure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parents[3] / ".ci"

PYTEST_XML = '<testsuites><testsuite name="pytest" errors="{1}" failures="{0}" skipped="3" tests="50" /></testsuites>'


def write_reports(directory: Path, *, failures: int = 0, errors: int = 0, bad_cases: int = 0) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "pytest.xml").write_text(PYTEST_XML.format(failures, errors))
    cases = {"generated": 1000, "with_failures": bad_cases, "unique_failures": 1, "without_checks": 20, "errored": 0}
    (directory / "schemathesis.json").write_text(json.dumps({"test_cases": cases}))


def summary(directory: Path, status: int) -> tuple[int, list[str]]:
    """Run the script; return its exit status and the printed lines."""
    command = [sys.executable, str(CI / "summary.py"), str(directory), str(status)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    return result.returncode, result.stdout.splitlines()


async def test_passed_and_skipped_tests_are_added_up(tmp_path: Path) -> None:
    write_reports(tmp_path)
    assert summary(tmp_path, 0) == (0, ["1027 passed, 0 failed, 23 skipped"])


@pytest.mark.parametrize("status", [0, 2])
async def test_failed_tests_are_counted_and_fail_the_run(tmp_path: Path, status: int) -> None:
    write_reports(tmp_path, failures=2, errors=1, bad_cases=4)
    code, lines = summary(tmp_path, status)
    assert code != 0
    assert lines == ["1020 passed, 7 failed, 23 skipped"]


async def test_a_failure_outside_the_tests_counts_as_one(tmp_path: Path) -> None:
    write_reports(tmp_path)
    code, lines = summary(tmp_path, 2)
    assert code == 2
    assert lines[-1] == "1027 passed, 1 failed, 23 skipped"


@pytest.mark.parametrize("content", [None, "", "<testsuites>", '<testsuite tests="1" />'])
async def test_a_missing_or_truncated_report_fails_the_run(tmp_path: Path, content: str | None) -> None:
    write_reports(tmp_path)
    (tmp_path / "pytest.xml").unlink()
    if content is not None:
        (tmp_path / "pytest.xml").write_text(content)
    code, lines = summary(tmp_path, 0)
    assert code == 1
    assert lines[0].startswith("cannot read the report pytest.xml")
    assert lines[-1] == "980 passed, 1 failed, 20 skipped"


async def test_a_run_without_any_report_fails(tmp_path: Path) -> None:
    code, lines = summary(tmp_path, 0)
    assert code == 1
    assert lines[-1] == "0 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize("status", [0, 2])
async def test_ci_ends_with_the_summary_whether_make_fails_or_not(tmp_path: Path, status: int) -> None:
    """A script replaces `make`: it writes reports into the directory that CI passes, and exits with `status`."""
    write_reports(tmp_path / "reports")
    (tmp_path / "checkout" / ".ci").mkdir(parents=True)
    for name in ("run", "summary.py"):
        (tmp_path / "checkout" / ".ci" / name).write_bytes((CI / name).read_bytes())
    (tmp_path / "bin").mkdir()
    make = tmp_path / "bin" / "make"
    make.write_text(
        f'#!/bin/sh\n[ "$1" = local-model ] && exit 1\ncp {tmp_path}/reports/* "${{3#REPORTS=}}"\n'
        f"echo make: an error >&2\nexit {status}\n"
    )
    make.chmod(0o700)
    result = subprocess.run(
        ["bash", str(tmp_path / "checkout" / ".ci" / "run")],
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == status
    assert result.stdout.endswith(f"\n1027 passed, {1 if status else 0} failed, 23 skipped\n")
