"""Convert between absolute paths and `file:` URIs, as language servers and MCP servers use them."""

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit


def uri_of(path: Path) -> str:
    """Return the `file:` URI of an absolute path."""
    return "file://" + quote(str(path), safe="/-._~")


def path_of(uri: str) -> Path | None:
    """Return the path of a `file:` URI, None for any other URI."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # a server may send anything
        return None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return None
    path = unquote(parts.path)
    return Path(path) if "\0" not in path else None
