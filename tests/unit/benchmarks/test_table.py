"""Check which limits a figure reaches, and the row of the table."""

import pytest

from benchmarks.table import Figure, markdown


@pytest.mark.parametrize(
    ("value", "must", "goal", "more_is_better", "expected"),
    [
        (10, 20, 15, False, "goal"),
        (15, 20, 15, False, "goal"),
        (16, 20, 15, False, "must"),
        (21, 20, 15, False, "no"),
        (21, None, 15, False, "no"),
        (21, None, None, False, ""),
        (700, 600, 650, True, "goal"),
        (610, 600, 650, True, "must"),
        (500, 600, 650, True, "no"),
    ],
)
async def test_a_figure_tells_which_limit_it_reaches(
    value: float, must: float | None, goal: float | None, more_is_better: bool, expected: str
) -> None:
    figure = Figure(name="f", value=value, unit="ms", must=must, goal=goal, more_is_better=more_is_better)
    assert figure.reached == expected


async def test_the_table_shows_limits_spread_and_floor() -> None:
    figure = Figure(name="f", value=1234.5, unit="ms", must=2000, goal=0.5, spread=(1000, 2000), floor="bare 1 ms")
    row = markdown([figure], "heading").splitlines()[-1]
    assert row == "| f | ≤ 2,000 ms | ≤ 0.5 ms | 1,234 ms | 1,000–2,000 | must | bare 1 ms |  |"
