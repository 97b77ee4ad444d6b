"""Compare the requests of a wire with the recorded ones in `recorded_bodies/`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.recorded_requests.cases import BASE_URL, CASES, Case
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
    return WireContext(provider.models[0], provider, case.selection(), case.env, may_cache(case.env), (provider.api_key,))


def sent(name: str, title: str, make: Callable[[WireContext], Wire]) -> dict[str, Any]:
    """Return the request of a case in the form in which requests were recorded."""
    kind, cases = CASES[name]
    request = make(context_of(cases[title], kind)).request(cases[title].request())
    target = request.url.removeprefix(BASE_URL)
    return {"target": target, "headers": dict(sorted(request.headers.items())), "body": json.loads(request.body)}


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
