"""Searching the web through the plain page of a search engine that needs no key (6.10)."""

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
PAUSE_S = (0.5, 2.0)
_BLOCKED = ("anomaly-modal", "challenge-form", "bots use duckduckgo too")


@dataclass(frozen=True)
class Hit:
    """One result."""

    title: str
    url: str
    summary: str


class Search:
    """Asks one search at a time, with a pause between two, as people would."""

    def __init__(self, random: random.Random, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        self._random = random
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._has_asked = False

    async def ask(self, query: str, *, most: int, endpoint: str, timeout_s: float) -> list[Hit]:
        """The first results. Raises ToolError, also when the engine takes us for a robot."""
        async with self._turn:
            if self._has_asked:
                await self._sleep(self._random.uniform(*PAUSE_S))
            self._has_asked = True
            page = await fetch(
                f"{endpoint}?q={quote_plus(query)}", max_bytes=PAGE_MAX_BYTES, timeout_s=timeout_s, accept="text/html"
            )
        text = page.text()
        if any(word in text.lower() for word in _BLOCKED):
            raise ToolError("cannot search: the search engine asks whether we are a robot; try again later")
        return await asyncio.to_thread(hits_of, text, most)


def hits_of(html: str, most: int) -> list[Hit]:
    """The results on a page, in order, at most `most`."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    hits: list[Hit] = []
    for link in soup.select("a.result-link, a.result__a"):
        url = _target(str(link.get("href") or ""))
        if not url or any(hit.url == url for hit in hits):
            continue
        row = link.find_parent("tr")
        near = row.find_next("td", class_="result-snippet") if row is not None else None
        near = near or link.find_next(class_="result__snippet")
        hits.append(Hit(_words(link), url, _words(near) if near is not None else ""))
        if len(hits) == most:
            break
    return hits


def _target(href: str) -> str:
    """The address behind a link, which may go through the engine's own redirect."""
    if href.startswith("//"):
        href = f"https:{href}"
    parts = urlsplit(href)
    if "uddg" in (asked := parse_qs(parts.query)):
        href = asked["uddg"][0]
    return href if href.startswith(("http://", "https://")) else ""


def _words(element: Any) -> str:
    return " ".join(element.get_text(" ", strip=True).split())
