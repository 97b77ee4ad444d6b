"""Keep the openai library from blocking the event loop while it prepares a request.

Its `async_maybe_transform` walks the whole history against the type annotations of the request, several unions deep:
1.2 s of loop time for 1,500 messages. No parameter of the two calls that we make has an alias or a format, so only the
omission of parameters that were not given is needed. A test compares the bodies with and without the patch.
"""

from typing import Any

_MODULES = ("openai.resources.chat.completions.completions", "openai.resources.responses.responses")
_NAME = "async_maybe_transform"


def patch_openai() -> None:
    """Replace the slow function in both resource modules. Idempotent. Imports openai."""
    import importlib

    for name in _MODULES:
        module = importlib.import_module(name)
        if getattr(module, _NAME) is not plain_transform:
            setattr(module, _NAME, plain_transform)


async def plain_transform(data: object, expected_type: object) -> object:
    """Return `data` as plain JSON values, without the parameters that were not given."""
    return _plain(data)


def _plain(value: Any) -> Any:
    from openai import NotGiven, Omit
    from pydantic import BaseModel

    missing = (NotGiven, Omit)

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return value
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items() if not isinstance(item, missing)}
        if isinstance(value, list):
            return [walk(item) for item in value]
        if isinstance(value, BaseModel):
            return value.model_dump(exclude_unset=True, mode="json")
        if hasattr(value, "__iter__") and not isinstance(value, bytes):
            return [walk(item) for item in value]  # the library accepts any iterable for a list
        return value

    return walk(value)
