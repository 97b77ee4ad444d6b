"""The tool `view`: a section of a text file with line numbers, or an image."""

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
from worker.processes.thread_pool import Stop
from worker.toolkit.paths import ResolvedPath, open_inside
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.file_io import sha256
from worker.tools.files.path_permission import permitted_path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")
FRAGMENT_BYTES = 64 * 1024  # of a long line, read at once
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
    """Lines of a file, and whether more come after them."""

    lines: list[str]
    has_more: bool


@dataclass(frozen=True)
class Viewed:
    """What was found: a section of text, or an image. `digest` is None when the file is too large to be edited."""

    place: ResolvedPath
    section: Section | None
    image: bytes
    mime_type: str
    digest: str | None
    resource: Mapping[str, str] = field(default_factory=dict)  # what clients show of a skill


class View:
    """Reads files; remembers what the session has seen, so that it may edit it."""

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
        wanted = read_args(ViewArgs, args)
        limits = context.limits
        place = await permitted_path(
            context,
            wanted.file_path,
            verb="view",
            action="read",
            params={"file_path": wanted.file_path, "offset": wanted.offset, "limit": wanted.limit},
        )
        viewed = await context.children.threads.run(
            lambda stop: _view(context, place, wanted, stop), timeout_s=limits.search_deadline_s
        )
        path = str(viewed.place.path)
        if viewed.digest is not None:
            await context.files.record_read(context.session_id, path, viewed.digest)
        if viewed.section is None:
            return ToolResult(
                f"Image {viewed.place.shown} ({viewed.mime_type}, {len(viewed.image)} bytes)",
                data=base64.b64encode(viewed.image).decode("ascii"),
                mime_type=viewed.mime_type,
                metadata={"file_path": path, "content": ""},
            )
        text = _numbered(viewed.section, wanted.offset)
        if wrong := await context.code.seen(viewed.place.path):
            text += f"\n{wrong}"
        content = "\n".join(viewed.section.lines).encode()[: limits.tool_metadata_max_bytes]
        metadata = {"file_path": path, "content": content.decode("utf-8", "ignore")}
        return ToolResult(text, metadata={**metadata, **viewed.resource})


def _view(context: ToolContext, place: ResolvedPath, wanted: ViewArgs, stop: Stop) -> Viewed:
    limits = context.limits
    try:
        fd = open_inside(place)
    except (FileNotFoundError, NotADirectoryError):
        raise ToolError(f"cannot view {wanted.file_path}: it does not exist{_suggestions(place)}") from None
    except OSError as error:
        raise ToolError(f"cannot view {wanted.file_path}: {error.strerror}") from error
    with open(fd, "rb", buffering=FRAGMENT_BYTES) as file:
        if place.path.suffix.lower() in IMAGE_SUFFIXES:
            if not context.takes_images:
                raise ToolError(f"cannot view {place.shown}: it is an image, and this model cannot see images")
            image = file.read(limits.image_max_bytes + 1)
            return Viewed(place, None, image, _image_type(image, place, limits), None)
        digest = None
        source: BinaryIO = file
        if os.fstat(fd).st_size <= limits.edit_max_bytes:
            data = file.read(limits.edit_max_bytes + 1)
            digest = sha256(data)
            source = io.BytesIO(data)
        if not _is_skill(context, place):
            return Viewed(place, _section(source, place, wanted, limits, stop), b"", "", digest)
        # Instructions are of use only as a whole.
        whole = msgspec.structs.replace(wanted, limit=wanted.limit or SKILL_LINES_MAX)
        section = _section(source, place, whole, limits, stop, max_bytes=SKILL_MAX_BYTES)
        return Viewed(place, section, b"", "", digest, {} if wanted.offset else _resource(section, place))


def _is_skill(context: ToolContext, place: ResolvedPath) -> bool:
    return place.path.name == SKILL_FILE and any(place.path.is_relative_to(root) for root in context.readable)


def _resource(section: Section, place: ResolvedPath) -> dict[str, str]:
    """What clients show of the skill whose file this is. Its name is that of its directory."""
    resource = {"resource_type": "skill", "resource_name": place.path.parent.name}
    for line in itertools.takewhile(lambda line: line.rstrip() != "---", section.lines[1:]):
        key, _, value = line.partition(": ")
        value = value.strip().strip("\"'")
        if key == "description" and value[:1] not in ("", "|", ">"):  # a text over several lines is left out
            resource["resource_description"] = value
    return resource


def _section(
    file: BinaryIO, place: ResolvedPath, wanted: ViewArgs, limits: Limits, stop: Stop, *, max_bytes: int = 0
) -> Section:
    """The wanted lines, cut to their bound. Raises ToolError when they are not text, or too much together."""
    max_bytes = max_bytes or limits.view_max_bytes
    lines: list[str] = []
    last = wanted.offset + (wanted.limit or limits.view_lines)
    size = 0
    for number in itertools.count():
        if stop.is_asked:
            raise ToolError(f"cannot view {place.shown}: reading up to line {number} took too long")
        line = _read_line(file, limits.view_line_max_bytes, stop)
        if line is None:
            return Section(lines, has_more=False)
        if number < wanted.offset:
            continue
        if number >= last:
            break
        size += len(line)
        if size > max_bytes:
            raise ToolError(
                f"cannot view {place.shown}: lines {wanted.offset} to {number} are more than {max_bytes} "
                "bytes; use a smaller limit"
            )
        try:
            lines.append(line.decode("utf-8").replace("\0", "\ufffd"))
        except UnicodeDecodeError as error:
            raise ToolError(f"cannot view {place.shown}: line {number} is not UTF-8 text") from error
    return Section(lines, has_more=True)


def _read_line(file: BinaryIO, max_bytes: int, stop: Stop) -> bytes | None:
    """The next line without its end, cut at a character when longer than `max_bytes`; None at the end of the file."""
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


def _image_type(data: bytes, place: ResolvedPath, limits: Limits) -> str:
    """The type that the content shows, whatever the name says."""
    if len(data) > limits.image_max_bytes:
        raise ToolError(f"cannot view {place.shown}: the image is larger than {limits.image_max_bytes} bytes")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise ToolError(f"cannot view {place.shown}: its content is no PNG, JPEG, GIF or WebP image")


def _suggestions(place: ResolvedPath) -> str:
    """Names of the same directory that look alike."""
    try:
        with os.scandir(place.path.parent) as found:
            names = [entry.name for entry in itertools.islice(found, NAMES_COMPARED_MAX)]
    except OSError:
        return ""
    wanted = place.path.name
    alike = difflib.get_close_matches(wanted, names, SUGGESTIONS_MAX)
    alike += [name for name in names if wanted and wanted.lower() in name.lower() and name not in alike]
    return f"; did you mean {', '.join(sorted(alike[:SUGGESTIONS_MAX]))}?" if alike else ""
