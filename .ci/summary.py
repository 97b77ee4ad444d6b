"""Sum up in one line what CI ran: `N passed, N failed, N skipped`.

Usage: summary.py DIRECTORY STATUS. Reads `pytest.xml` (JUnit) and `schemathesis.json` in DIRECTORY; STATUS is the exit
status of the command that wrote them. Exits 0 only if that was 0, both reports are there, and a test passed. What
failed without a failed test in a report (lint, a crash, a report that is missing) counts as one failure.
"""

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple


class Counts(NamedTuple):
    """How many tests ended how."""

    passed: int
    failed: int
    skipped: int


def pytest_counts(report: Path) -> Counts:
    """Read a JUnit report: one element for each suite, with its counts as attributes."""
    suites = [dict(suite.attrib) for suite in ElementTree.parse(report).getroot().iter("testsuite")]
    tests, failures, errors, skipped = (
        sum(int(suite[name]) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return Counts(tests - failures - errors - skipped, failures + errors, skipped)


def schemathesis_counts(report: Path) -> Counts:
    """Read the JSON report of schemathesis. A case without any check that applies to it is skipped."""
    cases = json.loads(report.read_text())["test_cases"]
    failed, skipped = cases["with_failures"] + cases["errored"], cases["without_checks"]
    return Counts(cases["generated"] - failed - skipped, failed, skipped)


def main(directory: Path, status: int) -> int:
    """Print the line, after a reason for each failure that no report tells. Return the exit status for CI."""
    found = []
    for name, read in (("pytest.xml", pytest_counts), ("schemathesis.json", schemathesis_counts)):
        try:
            found.append(read(directory / name))
        except (OSError, ValueError, KeyError, TypeError, ElementTree.ParseError) as error:
            print(f"cannot read the report {name}: {error!r}")
            status = status or 1
    passed, failed, skipped = (sum(counts[kind] for counts in found) for kind in range(3))
    if not passed:
        print("no test passed")
        status = status or 1
    if failed:
        status = status or 1
    elif status:
        print(f"a step failed that reports no failed test (status {status})")
        failed = 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
