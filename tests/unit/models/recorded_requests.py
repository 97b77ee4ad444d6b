"""Compare the requests of a wire with the recorded ones in `recorded_bodies/`."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.recorded_requests.case import BASE_URL, Case
from tests.support.recorded_requests.cases import CASES
from worker.models.options import may_cache
from worker.models.wires.wire import Wire, WireContext

_RECORDED = Path(__file__).with_name("recorded_bodies")


def recorded(name: str) -> dict[str, dict[str, Any]]:
    """Return the recorded requests of an API by the title of their case."""
    requests: dict[str, dict[str, Any]] = json.loads((_RECORDED / f"{name}.json").read_text())
    return requests


def context_of(case: Case, kind: str) -> WireContext:
    """Return the context of a case whose provider has the type `kind`, unless the case says otherwise."""
    provider = case.configuration(str(case.provider.get("type", kind)), BASE_URL)
    return WireContext(
        provider.models[0], provider, case.selection(), case.env, may_cache(case.env), (provider.api_key,)
    )


def sent(name: str, title: str, make: Callable[[WireContext], Wire]) -> dict[str, Any]:
    """Return the request of a case in the form in which requests were recorded."""
    kind, cases = CASES[name]
    request = make(context_of(cases[title], kind)).request(cases[title].request())
    target = request.url.removeprefix(BASE_URL)
    headers = {name.lower(): value for name, value in sorted(request.headers.items())}
    return {"target": target, "headers": headers, "body": json.loads(request.body)}


@dataclass(frozen=True)
class Difference:
    """A place at which requests differ from the recorded ones on purpose; both patterns must match as a whole."""

    reason: str
    path: str
    title: str = ".*"


def check_requests(name: str, make: Callable[[WireContext], Wire], allowed: Sequence[Difference]) -> None:
    """Fail for a request that differs from the recorded one at another place than `allowed`, or if one is not used."""
    unexpected: dict[str, Any] = {}
    used: set[Difference] = set()
    for title, request in recorded(name).items():
        for path, values in differences(request, sent(name, title, make)).items():
            row = next(
                (row for row in allowed if re.fullmatch(row.path, path) and re.fullmatch(row.title, title)), None
            )
            if row is None:
                unexpected[f"{title}: {path}"] = values
            else:
                used.add(row)
    assert unexpected == {}
    assert [row for row in allowed if row not in used] == []


def differences(old: Any, new: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the paths at which two JSON values differ, with both values; None stands for a missing one."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*old, *(key for key in new if key not in old)]:
            found |= differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = {}
        for index, (first, second) in enumerate(zip(old, new, strict=True)):
            found |= differences(first, second, f"{path}.{index}")
        return found
    return {} if old == new else {path: (old, new)}
