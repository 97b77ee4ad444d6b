"""Replace lone surrogates: halves of characters, which neither UTF-8 nor JSON nor SQLite can hold.

They come from file names and output of programs that are not UTF-8, and from escapes in JSON.
"""

from typing import Any


def replace_surrogates(text: str) -> str:
    """Return `text` with a question mark for every surrogate."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def replace_surrogates_in(value: Any) -> Any:
    """Return a JSON value with `replace_surrogates` applied to all text in it, keys included; tuples become lists."""
    match value:
        case str():
            return replace_surrogates(value)
        case dict():
            return {replace_surrogates(str(key)): replace_surrogates_in(item) for key, item in value.items()}
        case list() | tuple():
            return [replace_surrogates_in(item) for item in value]
        case _:
            return value


def join_surrogates(text: str) -> str:
    """Return `text` with pairs of surrogates joined to their character and U+FFFD for every lone one."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
