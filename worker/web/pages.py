"""Convert a web page to text or Markdown. Blocks, and imports its libraries at the first call: for threads."""

import json
import re
from collections.abc import Callable
from typing import Any

from worker.toolkit.tool import ToolError

HTML_MAX_CHARACTERS = 2_000_000
_INVISIBLE = ("script", "style", "noscript", "template", "svg", "iframe", "object", "embed")
_AROUND_CONTENT = ("nav", "footer", "aside", "header", "form", "button")
_EMPTY_LINES = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")


def is_html(content_type: str, text: str) -> bool:
    """Return whether it is HTML, judged by its type or its beginning."""
    if "html" in content_type.lower():
        return True
    return not content_type and text.lstrip()[:100].lower().startswith(("<!doctype html", "<html"))


def to_text(html: str) -> str:
    """Return the text of a page. Raises ToolError."""
    return _limit_depth(lambda: _tidy(_soup(html, _INVISIBLE).get_text("\n", strip=True)))


def to_markdown(html: str, *, is_bare: bool = False) -> str:
    """Convert a page to Markdown; `is_bare` leaves out menus and other text around the content. Raises ToolError."""

    def convert() -> str:
        from markdownify import MarkdownConverter

        soup = _soup(html, _INVISIBLE + _AROUND_CONTENT if is_bare else _INVISIBLE)
        converted: str = MarkdownConverter(heading_style="ATX", bullets="-").convert_soup(soup)
        return _tidy(converted)

    return _limit_depth(convert)


def readable(content_type: str, text: str) -> str:
    """Format a response for a model: pages as Markdown, JSON indented, other text unchanged. Raises ToolError."""
    if is_html(content_type, text):
        return to_markdown(text, is_bare=True)
    if "json" in content_type.lower():
        try:
            return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            return text
    return text


def _soup(html: str, unwanted: tuple[str, ...]) -> Any:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html[:HTML_MAX_CHARACTERS], "html.parser")
    for element in soup.find_all(list(unwanted)):
        element.decompose()
    return soup


def _limit_depth(convert: Callable[[], str]) -> str:
    try:
        return convert()
    except RecursionError:
        raise ToolError("cannot convert the page: it is nested too deeply; fetch it as html") from None


def _tidy(text: str) -> str:
    return _EMPTY_LINES.sub("\n\n", text).strip()
