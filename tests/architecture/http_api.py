"""Write the tables of `docs/http-api.md` from the routes and the kinds of events (`make http-api`).

A table is between `<!-- table: NAME -->` and `<!-- end of table -->`; the rest of the page is written by hand and kept.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin

from protocol.events import EVENTS
from protocol.operations import OPERATIONS
from supervisor.http.openapi.schemas import gives
from supervisor.http.routes import ROUTES, Route
from tests.architecture.files import ROOT

PAGE = ROOT / "docs" / "http-api.md"

_TABLE = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def render(text: str) -> str:
    """Return the text of the page with its tables made again. Raises KeyError for a table of an unknown name."""
    tables = {"routes": routes_table, "events": events_table}
    return _TABLE.sub(lambda match: f"{match[1]}{match[2]}\n{tables[match[1]]()}\n", text)


def routes_table() -> str:
    """Return the table of routes, in the order in which they are declared."""
    header = ("method", "path", "answer", "what it does")
    return _table(header, ((route.method, f"`{route.path}`", _answer(route), route.summary) for route in ROUTES))


def events_table() -> str:
    """Return the table of the kinds of events, by name."""
    header = ("kind", "changes", "payload", "delivery", "what it reports")
    return _table(header, _event_rows())


def _event_rows() -> Iterator[Iterable[str]]:
    for row in EVENTS.values():
        changes = ", ".join(f"`{change}`" for change in row.changes)
        payload = f"`{row.payload.__name__}`" if row.payload is not None else ""
        delivery = row.delivery.value + (f"; only with `?{row.needs}=1`" if row.needs else "")
        yield (f"`{row.name}`", changes, payload, delivery, row.summary)


def _answer(route: Route) -> str:
    status = OPERATIONS[route.operation].status if route.operation else 200
    value = gives(route)
    answer = "*empty*" if value is None else f"`{_type_text(value)}`"
    return answer if status == 200 else f"{status}, {answer}"


def _type_text(value: Any) -> str:
    if isinstance(value, str):
        return value  # a media type
    if get_origin(value) is Annotated:
        return _type_text(get_args(value)[0])
    name = value.__name__ if get_origin(value) is None else str(value)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", name)


def _table(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |\n" for cells in (header, *rows)]
    lines.insert(1, "|---" * len(header) + "|\n")
    return "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
