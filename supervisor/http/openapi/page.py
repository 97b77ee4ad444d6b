"""Serve the description as JSON and as a page. Both are built at the first request, then kept.

The page is one file with everything in it, so it works behind any proxy and when it is saved to a disk. Its content
security policy allows exactly its own script and style, and lets it load nothing.
"""

import asyncio
import base64
import hashlib
from importlib.resources import files

import msgspec

from supervisor.http.messages import Request, Response
from supervisor.http.openapi.document import document

_PARTS = files("supervisor.http.openapi")


class DescriptionHandlers:
    """Handle `GET /v1/openapi.json` and `GET /v1/docs`."""

    def __init__(self) -> None:
        self._json: Response | None = None
        self._page: Response | None = None

    async def openapi(self, request: Request) -> Response:
        """Answer with the OpenAPI document."""
        if self._json is None:
            # In a thread: building takes longer than other requests should wait.
            self._json = Response(200, await asyncio.to_thread(_document), {"Cache-Control": "no-cache"})
        return self._json

    async def docs(self, request: Request) -> Response:
        """Answer with the page."""
        if self._page is None:
            self._page = await asyncio.to_thread(page, (await self.openapi(request)).body)
        return self._page


def page(described: bytes) -> Response:
    """Make the page that shows this document. Reads files."""
    style, script = _part("page.css"), _part("page.js")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    text = _part("page.html")
    # The document last, so that nothing in it is replaced; `<` could end its element.
    for name, value in (("policy", policy), ("style", style), ("script", script)):
        text = text.replace(f"{{{{{name}}}}}", value)
    text = text.replace("{{document}}", described.decode().replace("<", "\\u003c"))
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": f"{policy}; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(200, text.encode(), headers)


def _document() -> bytes:
    return msgspec.json.encode(document())


def _part(name: str) -> str:
    return _PARTS.joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
