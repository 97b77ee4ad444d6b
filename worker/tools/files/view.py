"""The tool `view`: show a section of a text file with line numbers, or an image."""

import base64
import difflib
import io
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, BinaryIO

import msgspec
from msgspec import Meta

from protocol.limits import Limits
from worker.processes.output_buffer import without_cut_end
from worker.processes.thread_pool import StopFlag
from worker.toolkit.paths import ResolvedPath, open_inside
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.file_io import sha256
from worker.tools.files.path_permission import permitted_path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")
FRAGMENT_BYTES = 64 * 1024  # read at once of a long line
SKILL_FILE = "SKILL.md"
SKILL_LINES_MAX, SKILL_MAX_BYTES = 1_000_000, 1024 * 1024
SUGGESTIONS_MAX = 3
NAMES_COMPARED_MAX = 2000


class ViewArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `view`."""

    file_path: Annotated[str, Meta(description="The file to read, absolute or relative to the workspace")]
    offset: Annotated[int, Meta(ge=0, description="Number of the first line to read, counted from 0")] = 0
    limit: Annotated[int, Meta(ge=0, description="How many lines to read; 0 or left out means 200")] = 0


@dataclass(frozen=True)
class Section:
    """Lines of a file, and whether it has more after them."""

    lines: list[str]
    has_more: bool


@dataclass(frozen=True)
class Viewed:
    """A section of text, or an image. `digest` is None when the file is too large to be edited."""

    resolved: ResolvedPath
    section: Section | None
    image: bytes
    mime_type: str
    digest: str | None
    resource: Mapping[str, str] = field(default_factory=dict)  # what clients show when the file is a skill


class View:
    """Read files, and record what the session has read, so that it may edit it."""

    spec = ToolSpec(
        "view",
        description_of(__file__, "view"),
        schema_of(ViewArgs),
        parallel=False,
        effect="read",
        agents=("main", "task"),
    )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `view.md`."""
        arguments = read_args(ViewArgs, args)
        limits = context.limits
        resolved = await permitted_path(
            context,
            arguments.file_path,
            verb="view",
            action="read",
            params={"file_path": arguments.file_path, "offset": arguments.offset, "limit": arguments.limit},
        )
        viewed = await context.children.threads.run(
            lambda stop: _view(context, resolved, arguments, stop), timeout_s=limits.search_deadline_s
        )
        path = str(viewed.resolved.path)
        if viewed.digest is not None:
            await context.files.record_read(context.session_id, path, viewed.digest)
        if viewed.section is None:
            return ToolResult(
                f"Image {viewed.resolved.shown} ({viewed.mime_type}, {len(viewed.image)} bytes)",
                data=base64.b64encode(viewed.image).decode("ascii"),
                mime_type=viewed.mime_type,
                metadata={"file_path": path, "content": ""},
            )
        text = _numbered(viewed.section, arguments.offset)
        if problems := await context.code.seen(viewed.resolved.path):
            text += f"\n{problems}"
        content = "\n".join(viewed.section.lines).encode()[: limits.tool_metadata_max_bytes]
        metadata = {"file_path": path, "content": content.decode("utf-8", "ignore")}
        return ToolResult(text, metadata={**metadata, **viewed.resource})


def _view(context: ToolContext, resolved: ResolvedPath, args: ViewArgs, stop: StopFlag) -> Viewed:
    limits = context.limits
    try:
        fd = open_inside(resolved)
    except (FileNotFoundError, NotADirectoryError):
        raise ToolError(f"cannot view {args.file_path}: it does not exist{_suggestions(resolved)}") from None
    except OSError as error:
        raise ToolError(f"cannot view {args.file_path}: {error.strerror}") from error
    with open(fd, "rb", buffering=FRAGMENT_BYTES) as file:
        if resolved.path.suffix.lower() in IMAGE_SUFFIXES:
            if not context.takes_images:
                raise ToolError(f"cannot view {resolved.shown}: it is an image, and this model cannot see images")
            image = file.read(limits.image_max_bytes + 1)
            return Viewed(resolved, None, image, _image_type(image, resolved, limits), None)
        digest = None
        source: BinaryIO = file
        if os.fstat(fd).st_size <= limits.edit_max_bytes:
            data = file.read(limits.edit_max_bytes + 1)
            digest = sha256(data)
            source = io.BytesIO(data)
        if not _is_skill(context, resolved):
            return Viewed(resolved, _section(source, resolved, args, limits, stop), b"", "", digest)
        # Instructions are useful only as a whole.
        whole = msgspec.structs.replace(args, limit=args.limit or SKILL_LINES_MAX)
        section = _section(source, resolved, whole, limits, stop, max_bytes=SKILL_MAX_BYTES)
        return Viewed(resolved, section, b"", "", digest, {} if args.offset else _resource(section, resolved))


def _is_skill(context: ToolContext, resolved: ResolvedPath) -> bool:
    return resolved.path.name == SKILL_FILE and any(resolved.path.is_relative_to(root) for root in context.readable)


def _resource(section: Section, resolved: ResolvedPath) -> dict[str, str]:
    """Return what clients show when this skill file is read. A skill has the name of its directory."""
    resource = {"resource_type": "skill", "resource_name": resolved.path.parent.name}
    for line in itertools.takewhile(lambda line: line.rstrip() != "---", section.lines[1:]):
        key, _, value = line.partition(": ")
        value = value.strip().strip("\"'")
        if key == "description" and value[:1] not in ("", "|", ">"):  # a text on several lines is left out
            resource["resource_description"] = value
    return resource


def _section(
    file: BinaryIO, resolved: ResolvedPath, args: ViewArgs, limits: Limits, stop: StopFlag, *, max_bytes: int = 0
) -> Section:
    """Read the requested lines, each cut to its limit. Raises ToolError when they are not text, or too long in all."""
    max_bytes = max_bytes or limits.view_max_bytes
    lines: list[str] = []
    last = args.offset + (args.limit or limits.view_lines)
    size = 0
    for number in itertools.count():
        if stop.is_asked:
            raise ToolError(f"cannot view {resolved.shown}: reading up to line {number} took too long")
        line = _read_line(file, limits.view_line_max_bytes, stop)
        if line is None:
            return Section(lines, has_more=False)
        if number < args.offset:
            continue
        if number >= last:
            break
        size += len(line)
        if size > max_bytes:
            raise ToolError(
                f"cannot view {resolved.shown}: lines {args.offset} to {number} are more than {max_bytes} "
                "bytes; use a smaller limit"
            )
        try:
            lines.append(line.decode("utf-8").replace("\0", "\ufffd"))
        except UnicodeDecodeError as error:
            raise ToolError(f"cannot view {resolved.shown}: line {number} is not UTF-8 text") from error
    return Section(lines, has_more=True)


def _read_line(file: BinaryIO, max_bytes: int, stop: StopFlag) -> bytes | None:
    """Read a line without its end, cut at a character when longer than `max_bytes`; None at the end of the file."""
    first = file.readline(FRAGMENT_BYTES)
    if not first:
        return None
    rest = 0
    fragment = first
    while not fragment.endswith(b"\n") and not stop.is_asked and (fragment := file.readline(FRAGMENT_BYTES)):
        rest += len(fragment)
    line = first.removesuffix(b"\n").removesuffix(b"\r")
    if rest == 0 and len(line) <= max_bytes:
        return line
    kept = without_cut_end(line[:max_bytes])
    return kept + f" ... [{len(first) + rest - len(kept)} bytes of this line left out]".encode()


def _numbered(section: Section, offset: int) -> str:
    rows = [f"{number:6}|{line}" for number, line in enumerate(section.lines, start=offset + 1)]
    text = "<file>\n" + "\n".join(rows) + "\n</file>"
    if section.has_more:
        text += f"\n(The file has more lines: read on with offset {offset + len(rows)})"
    elif not rows:
        text += "\n(The file is empty)" if offset == 0 else f"\n(The file has no line at offset {offset})"
    return text


def _image_type(data: bytes, resolved: ResolvedPath, limits: Limits) -> str:
    """Return the media type by the content, whatever the name says."""
    if len(data) > limits.image_max_bytes:
        raise ToolError(f"cannot view {resolved.shown}: the image is larger than {limits.image_max_bytes} bytes")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise ToolError(f"cannot view {resolved.shown}: its content is not a PNG, JPEG, GIF or WebP image")


def _suggestions(resolved: ResolvedPath) -> str:
    """Return a note with similar names in the same directory; "" when there are none."""
    try:
        with os.scandir(resolved.path.parent) as entries:
            names = [entry.name for entry in itertools.islice(entries, NAMES_COMPARED_MAX)]
    except OSError:
        return ""
    missing = resolved.path.name
    similar = difflib.get_close_matches(missing, names, SUGGESTIONS_MAX)
    similar += [name for name in names if missing and missing.lower() in name.lower() and name not in similar]
    return f"; did you mean {', '.join(sorted(similar[:SUGGESTIONS_MAX]))}?" if similar else ""
