"""Read what `bulkhead run` sends: the words of the command line, standard input, and attached files."""

import mimetypes
import os
import select
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from protocol.api.message import Attachment
from protocol.base.regular_file import read_regular_file
from protocol.limits import DEFAULT_LIMITS
from supervisor.cli.terminal.formatting import note

NOTE_AFTER_S = 3.0
"""How long standard input may stay silent before the user is told what the command waits for."""
INPUT_MAX_BYTES = DEFAULT_LIMITS.prompt_max_bytes
_CHUNK_BYTES = 1 << 20
_IMAGE_HEADS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}


def read_prompt(words: Sequence[str]) -> str:
    """Return the words, then the text on standard input. Raises UsageError when there is no text, or no valid one.

    Standard input is read when there are no words, when the last word is `-`, and when it is a pipe. With words, it is
    left alone when it is anything else: in `while read line; do bulkhead run "$line"; done < list` it is the loop's.
    """
    is_asked = not words or words[-1] == "-"
    parts = [" ".join(words[:-1] if words and is_asked else words)]
    if is_asked and not words and _is_terminal():
        raise click.UsageError('a prompt is needed: bulkhead run "…", or pipe one in')
    if is_asked or _is_pipe():
        parts.append(_read_input().rstrip("\n"))
    text = "\n\n".join(part for part in parts if part.strip())
    if not text:
        raise click.UsageError("the prompt is empty")
    return text


def read_attachments(files: Sequence[Path], images: Sequence[Path]) -> list[Attachment]:
    """Return the files, then the images, as attachments. Raises UsageError for one that cannot be sent."""
    attachments = [_attachment(path, _text_type(path, data), data) for path in files for data in [_content(path)]]
    attachments += [_attachment(path, _image_type(path, data), data) for path in images for data in [_content(path)]]
    if sum(len(attachment.content) for attachment in attachments) > INPUT_MAX_BYTES:
        raise click.UsageError(f"the attached files are together larger than {INPUT_MAX_BYTES} bytes")
    return attachments


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _is_pipe() -> bool:
    try:
        return sys.stdin is not None and stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode)
    except (OSError, ValueError):  # closed, or replaced by something without a descriptor
        return False


def _read_input() -> str:
    """Read standard input to its end, with a note while nothing comes."""
    if sys.stdin is None:
        return ""
    try:
        descriptor = sys.stdin.fileno()
        if not select.select([descriptor], [], [], NOTE_AFTER_S)[0]:
            note("waiting for standard input; to send the prompt alone, redirect it from /dev/null")
        chunks: list[bytes] = []
        size = 0
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            if size > INPUT_MAX_BYTES:
                raise click.UsageError(f"standard input is longer than {INPUT_MAX_BYTES} bytes")
    except OSError as error:
        raise click.UsageError(f"cannot read standard input: {error.strerror}") from error
    data = b"".join(chunks)
    if b"\0" in data:
        raise click.UsageError("standard input is not text; attach it with --file or --image")
    return data.decode(errors="replace")


def _content(path: Path) -> bytes:
    try:
        data = read_regular_file(path, INPUT_MAX_BYTES)
    except OSError as error:
        raise click.UsageError(f"cannot attach {path}: {error.strerror}") from error
    if len(data) > INPUT_MAX_BYTES:
        raise click.UsageError(f"cannot attach {path}: it is larger than {INPUT_MAX_BYTES} bytes")
    return data


def _text_type(path: Path, data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"cannot attach {path}: it is not UTF-8 text; use --image for pictures") from None
    guessed = mimetypes.guess_type(path.name)[0] or ""
    return guessed if guessed.startswith("text/") else "text/plain"


def _image_type(path: Path, data: bytes) -> str:
    for head, mime_type in _IMAGE_HEADS.items():
        if data.startswith(head):
            return mime_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise click.UsageError(f"cannot attach {path}: it is not a PNG, JPEG, GIF or WebP image")


def _attachment(path: Path, mime_type: str, data: bytes) -> Attachment:
    return Attachment(file_path=str(path), file_name=path.name, mime_type=mime_type, content=data)
