"""Search public code through the GraphQL interface of Sourcegraph, and format the response as text.

`send_search` is for the event loop; `format_response` processes megabytes and is for threads.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from worker.toolkit.tool import ToolError
from worker.web.client import Page, post

ENDPOINT = "https://sourcegraph.com/.api/graphql"
RESPONSE_MAX_BYTES = 8 * 1024 * 1024
LINES_PER_FILE = 10
LINE_MAX_CHARACTERS = 300
SHOWN_MAX_CHARACTERS = 50_000

_COUNT = re.compile(r"(?:^|\s)count:", re.IGNORECASE)
_QUERY = """\
query ($query: String!) {
  search(query: $query, patternType: keyword) {
    results {
      matchCount limitHit
      alert { title description }
      results {
        __typename
        ... on Repository { name url }
        ... on FileMatch {
          repository { name }
          file { path url content }
          lineMatches { preview lineNumber }
        }
      }
    }
  }
}"""


class _Base(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of the response that are read. All may be null or missing."""


class _Line(_Base, frozen=True):
    preview: str | None = None
    line_number: int = 0  # the first is 0


class _File(_Base, frozen=True):
    path: str | None = None
    url: str | None = None
    content: str | None = None


class _Repository(_Base, frozen=True):
    name: str | None = None


class _Result(_Base, frozen=True):
    kind: str = msgspec.field(name="__typename", default="")
    name: str | None = None
    url: str | None = None
    repository: _Repository | None = None
    file: _File | None = None
    line_matches: list[_Line] | None = None


class _Alert(_Base, frozen=True):
    title: str | None = None
    description: str | None = None


class _Results(_Base, frozen=True):
    match_count: int = 0
    limit_hit: bool = False
    alert: _Alert | None = None
    results: list[_Result] | None = None


class _Search(_Base, frozen=True):
    results: _Results | None = None


class _Data(_Base, frozen=True):
    search: _Search | None = None


class _Problem(_Base, frozen=True):
    message: str = ""


class _Answer(_Base, frozen=True):
    data: _Data | None = None
    errors: list[_Problem] | None = None


@dataclass(frozen=True)
class CodeMatches:
    """The matches, formatted for a model. `is_cut`: there are more than are shown."""

    text: str
    matches: int
    is_cut: bool


async def send_search(query: str, *, count: int, endpoint: str, timeout_s: float) -> Page:
    """Send the search and return the response. Raises ToolError."""
    if not _COUNT.search(query):
        query = f"{query} count:{count}"
    body = msgspec.json.encode({"query": _QUERY, "variables": {"query": query}})
    page = await post(endpoint, body, max_bytes=RESPONSE_MAX_BYTES, timeout_s=timeout_s)
    if page.is_cut:
        raise ToolError(
            f"cannot search: the response is larger than {RESPONSE_MAX_BYTES} bytes; make the query narrower, for "
            "example with repo: or lang:"
        )
    return page


def format_response(data: bytes, *, count: int, window: int, at: str) -> CodeMatches:
    """Format a response: at most `count` files, `window` lines around each match. `at` is the server's URL, for links.

    Raises ToolError when it is not a response to a search.
    """
    results = _decoded(data)
    blocks: list[str] = []
    shown = [result for result in results.results or () if result.kind in ("FileMatch", "Repository")]
    for result in shown[:count]:
        blocks.append(_file(result, window, at) if result.kind == "FileMatch" else _repository(result, at))
    is_cut = results.limit_hit or len(shown) > count
    head = f"{results.match_count} matches" + ("; there are more: make the query narrower" if is_cut else "")
    if results.alert is not None:
        message = ": ".join(text for text in (results.alert.title, results.alert.description) if text)
        head += f"\nThe server says: {message}"
    text = "\n\n".join([head, *blocks]) if blocks else f"{head}\nThere is nothing to show. Try other words or filters."
    if len(text) > SHOWN_MAX_CHARACTERS:
        text, is_cut = f"{text[:SHOWN_MAX_CHARACTERS]}\n\n[the rest is left out]", True
    return CodeMatches(text, results.match_count, is_cut)


def _decoded(data: bytes) -> _Results:
    try:
        answer = msgspec.json.decode(data, type=_Answer)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ToolError(f"cannot search: the server's response cannot be read: {error}") from None
    search = answer.data.search if answer.data is not None else None
    if search is None or search.results is None:
        message = "; ".join(problem.message for problem in answer.errors or () if problem.message)
        raise ToolError(f"cannot search: {message[:1000] or 'the server answered without results'}")
    return search.results


def _repository(result: _Result, at: str) -> str:
    return f"## {result.name}\n{_link(result.url, at)}"


def _file(result: _Result, window: int, at: str) -> str:
    file = result.file or _File()
    name = result.repository.name if result.repository is not None else ""
    matches = result.line_matches or []
    lines = _window(matches[:LINES_PER_FILE], file.content, window)
    if len(matches) > LINES_PER_FILE:
        lines = [*lines, f"[{len(matches) - LINES_PER_FILE} more lines match in this file]"]
    return "\n".join([f"## {name} {file.path}", _link(file.url, at), *lines])


def _link(url: str | None, at: str) -> str:
    """Make a URL of a link; those in the response are paths on the server."""
    server = urlsplit(at)
    host = server.netloc.rpartition("@")[2]
    return f"{server.scheme}://{host}{url}" if url and url.startswith("/") else url or ""


def _window(matches: Sequence[_Line], content: str | None, window: int) -> list[str]:
    """Return the matching lines, marked with `>`, and the lines around them."""
    texts = {line.line_number: line.preview or "" for line in matches}
    matching = set(texts)
    if window and content:
        whole = content.split("\n")
        near = {n for line in texts for n in range(line - window, line + window + 1) if 0 <= n < len(whole)}
        texts |= {n: whole[n] for n in near}
    return list(_numbered(texts, matching))


def _numbered(texts: dict[int, str], matching: set[int]) -> Iterator[str]:
    before: int | None = None
    for number in sorted(texts):
        if before is not None and number > before + 1:
            yield "…"
        text = texts[number].rstrip("\r\n")
        if len(text) > LINE_MAX_CHARACTERS:
            text = f"{text[:LINE_MAX_CHARACTERS]}…"
        yield f"{'>' if number in matching else ' '}{number + 1:6}| {text}"
        before = number
