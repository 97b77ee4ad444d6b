"""The tables of docs/http-api.md equal the routes and the kinds of events."""

import re

import pytest

from protocol.events import EVENTS
from supervisor.http.routes import ROUTES
from tests.architecture.http_api import PAGE, events_table, render, routes_table


async def test_the_tables_of_the_page_equal_the_code() -> None:
    page = PAGE.read_text()
    assert page == render(page), "routes or events have changed: write the tables again with `make http-api`"


async def test_the_page_has_each_table_once() -> None:
    assert sorted(re.findall(r"<!-- table: (\w+) -->", PAGE.read_text())) == ["events", "routes"]


async def test_every_route_and_every_kind_has_a_row() -> None:
    assert re.findall(r"^\| ([A-Z]+) \| `(.+?)` \|", routes_table(), re.MULTILINE) == [
        (route.method, route.path) for route in ROUTES
    ]
    assert re.findall(r"^\| `(\w+)` \|", events_table(), re.MULTILINE) == list(EVENTS)


async def test_a_table_is_made_again_and_the_text_around_it_is_kept() -> None:
    page = "before\n<!-- table: events -->\nold\n<!-- end of table -->\nafter\n"
    assert render(page) == f"before\n<!-- table: events -->\n\n{events_table()}\n<!-- end of table -->\nafter\n"
    with pytest.raises(KeyError, match="colours"):
        render("<!-- table: colours -->\n<!-- end of table -->\n")
