"""The tools `fetch` and `download`: read a URL as text into the conversation, or as a file into the workspace."""

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from worker.toolkit.paths import ResolvedPath, check_workspace, locate
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.path_permission import expand_home
from worker.web.body import read_pieces
from worker.web.client import check_url, fetch, open_response
from worker.web.pages import is_html, to_markdown, to_text

FORMATS = ("text", "markdown", "html")
FETCH_S, FETCH_MAX_S = 30.0, 120
DOWNLOAD_S, DOWNLOAD_MAX_S = 300.0, 600
SILENCE_S = 60.0


class FetchArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `fetch`."""

    url: Annotated[str, Meta(description="The address, with http:// or https://")]
    format: Annotated[str, Meta(description="What a page is turned into", extra_json_schema={"enum": [*FORMATS]})]
    timeout: Annotated[int, Meta(ge=0, description="Seconds to wait at most; 30 when left out, 120 at most")] = 0


class Fetch:
    """Reads a page as text."""

    spec = ToolSpec("fetch", description_of(__file__, "fetch"), schema_of(FetchArgs), parallel=True, effect="read")

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `fetch.md`."""
        arguments = read_args(FetchArgs, args)
        if arguments.format not in FORMATS:
            raise ToolError(
                f"cannot fetch as {arguments.format[:40]!r}: the format must be one of {', '.join(FORMATS)}"
            )
        url = check_url(arguments.url)
        await context.permit(
            action="fetch",
            path=str(context.workspace),
            description=f"Fetch {url}",
            params={"url": url, "format": arguments.format, "timeout": arguments.timeout},
        )
        page = await fetch(
            url,
            max_bytes=context.limits.fetch_max_bytes,
            timeout_s=float(min(arguments.timeout or FETCH_S, FETCH_MAX_S)),
        )
        text = page.text()
        if is_html(page.content_type, text) and arguments.format != "html":
            convert = to_text if arguments.format == "text" else to_markdown
            text = await context.children.threads.run(
                lambda _stop: convert(text), timeout_s=context.limits.search_deadline_s
            )
        elif arguments.format == "markdown":
            text = f"```\n{text}\n```"
        if page.is_cut:
            text += f"\n\n[only the first {context.limits.fetch_max_bytes} bytes were read]"
        return ToolResult(text or "(the page is empty)", metadata={"url": page.url, "content_type": page.content_type})


class DownloadArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `download`."""

    url: Annotated[str, Meta(description="The address, with http:// or https://")]
    file_path: Annotated[str, Meta(description="The file to write, absolute or relative to the workspace")]
    timeout: Annotated[int, Meta(ge=0, description="Seconds to wait at most; 300 when left out, 600 at most")] = 0


class Download:
    """Downloads a URL into a file; a partial file is never left behind."""

    spec = ToolSpec(
        "download", description_of(__file__, "download"), schema_of(DownloadArgs), parallel=True, effect="write"
    )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `download.md`."""
        arguments = read_args(DownloadArgs, args)
        url = check_url(arguments.url)
        if not arguments.file_path:
            raise ToolError("cannot download: file_path is empty; say where to put the file")
        threads, limits = context.children.threads, context.limits
        target = await threads.run(
            lambda _stop: locate(context.workspace, expand_home(arguments.file_path, context)),
            timeout_s=limits.search_deadline_s,
        )
        await context.permit(
            action="download",
            path=str(target.path),
            description=f"Download {url} to {target.shown}",
            params={"url": url, "file_path": str(target.path), "timeout": arguments.timeout},
        )
        timeout_s = float(min(arguments.timeout or DOWNLOAD_S, DOWNLOAD_MAX_S))
        name = os.fsdecode(os.fsencode(target.path.name)[:100])  # the full name may have the maximum length already
        part = target.path.with_name(f".{name}.{context.children.new_marker()}.part~")
        try:
            async with asyncio.timeout(timeout_s):
                size, kind = await self._write(url, part, target, context)
        except TimeoutError:
            raise ToolError(f"cannot download {url}: it took longer than {timeout_s:g} s") from None
        except OSError as error:
            raise ToolError(f"cannot write {target.shown}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                await threads.run(lambda _stop: part.unlink(missing_ok=True), timeout_s=limits.search_deadline_s)
        return ToolResult(
            f"Downloaded {size} bytes ({kind or 'no type given'}) to {target.shown}",
            metadata={"url": url, "file_path": str(target.path), "size": size},
        )

    async def _write(self, url: str, part: Path, target: ResolvedPath, context: ToolContext) -> tuple[int, str]:
        """Stream into `part`, then move it to `target`; return size and content type."""
        threads, limits = context.children.threads, context.limits
        opened_files: list[int] = []  # filled in the thread, so that a cancel in between loses none

        def begin(_stop: object) -> None:
            if target.inside:
                check_workspace(context.workspace, "download")
            part.parent.mkdir(parents=True, exist_ok=True)
            _check_target(target)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            opened_files.append(os.open(part, flags, 0o666))

        size = 0
        async with (
            open_response(url, timeout_s=SILENCE_S) as response,
            contextlib.aclosing(read_pieces(response)) as body,
        ):
            try:
                await threads.run(begin, timeout_s=limits.search_deadline_s)
                async for piece in body:
                    size += len(piece)
                    if size > limits.download_max_bytes:
                        raise ToolError(f"cannot download {url}: it is larger than {limits.download_max_bytes} bytes")
                    await threads.run(_writer(opened_files[0], piece), timeout_s=limits.search_deadline_s)
            finally:
                for fd in opened_files:
                    os.close(fd)
            kind = response.headers.get("content-type", "")
        await threads.run(lambda _stop: os.replace(part, target.path), timeout_s=limits.search_deadline_s)
        return size, kind


def _check_target(target: ResolvedPath) -> None:
    """Raise ToolError when the target exists and is no regular file: the move would replace a device or a pipe."""
    try:
        mode = target.path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise ToolError(f"cannot download to {target.shown}: it is a directory; name the file")
    if not stat.S_ISREG(mode):
        raise ToolError(f"cannot download to {target.shown}: it is not a regular file")


def _writer(fd: int, data: bytes) -> Callable[[object], None]:
    def write(_stop: object) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]

    return write
