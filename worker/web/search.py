"""Search the web through the HTML page of a search engine that needs no key."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlsplit

from worker.toolkit.tool import ToolError
from worker.web.client import fetch

ENDPOINT = "https://lite.duckduckgo.com/lite/"
PAGE_MAX_BYTES = 1024 * 1024
PAUSE_S = (0.5, 2.0)  # the shortest and the longest
_BLOCKED = ("anomaly-modal", "challenge-form", "bots use duckduckgo too")


@dataclass(frozen=True)
class Hit:
    """One result of a search."""

    title: str
    url: str
    summary: str


class Search:
    """Sends one search at a time, with a random pause before the next, as a person would."""

    def __init__(self, random: random.Random, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        self._random = random
        self._sleep = sleep
        self._lock = asyncio.Lock()
        self._has_searched = False

    async def ask(self, query: str, *, most: int, endpoint: str, timeout_s: float) -> list[Hit]:
        """Return the first `most` results. Raises ToolError, also when the engine refuses automatic requests."""
        async with self._lock:
            if self._has_searched:
                await self._sleep(self._random.uniform(*PAUSE_S))
            self._has_searched = True
            page = await fetch(
                f"{endpoint}?q={quote_plus(query)}", max_bytes=PAGE_MAX_BYTES, timeout_s=timeout_s, accept="text/html"
            )
        text = page.text()
        if any(word in text.lower() for word in _BLOCKED):
            raise ToolError("cannot search: the search engine refuses automatic requests; try again later")
        return await asyncio.to_thread(hits_of, text, most)


def hits_of(html: str, most: int) -> list[Hit]:
    """Return the results on a page, in order, at most `most`."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    hits: list[Hit] = []
    for link in soup.select("a.result-link, a.result__a"):
        url = _target(str(link.get("href") or ""))
        if not url or any(hit.url == url for hit in hits):
            continue
        row = link.find_parent("tr")
        snippet = row.find_next("td", class_="result-snippet") if row is not None else None
        snippet = snippet or link.find_next(class_="result__snippet")
        hits.append(Hit(_text(link), url, _text(snippet) if snippet is not None else ""))
        if len(hits) == most:
            break
    return hits


def _target(href: str) -> str:
    """Return the URL of a link, which may go through the engine's own redirect; "" for others."""
    if href.startswith("//"):
        href = f"https:{href}"
    parts = urlsplit(href)
    if "uddg" in (query := parse_qs(parts.query)):
        href = query["uddg"][0]
    return href if href.startswith(("http://", "https://")) else ""


def _text(element: Any) -> str:
    return " ".join(element.get_text(" ", strip=True).split())
