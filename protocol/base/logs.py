"""One-line structured logs with ids as fields, and the redaction of registered secrets at the sink."""

import logging
import sys
import time
from typing import Any, TextIO

from protocol.base.log_handler import DescriptorHandler

_FIELDS = "bulkhead_fields"
SECRET_LENGTH_MIN = 8


def fields(**values: object) -> dict[str, Any]:
    """For `extra=`: the fields of one log line."""
    return {_FIELDS: values}


class Redactor(logging.Filter):
    """Replaces registered secrets by `***` in every line that leaves through its handler (X08)."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: list[str] = []

    def register(self, secret: str) -> None:
        """Never show this text. Very short texts are not taken: replacing them would destroy every line."""
        if len(secret) >= SECRET_LENGTH_MIN and secret not in self._secrets:
            self._secrets.append(secret)

    def clean(self, text: str) -> str:
        """`text` without any registered secret."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class LineFormatter(logging.Formatter):
    """`2026-01-01T00:00:00.000Z level logger "what happened" key=value …` on exactly one line."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        parts = [f"{stamp}.{int(record.msecs):03d}Z", record.levelname.lower(), record.name, record.getMessage()]
        parts += [f"{key}={_value(value)}" for key, value in getattr(record, _FIELDS, {}).items()]
        if record.exc_info:
            parts.append("trace=" + _value(self.formatException(record.exc_info)))
        return self._redactor.clean(" ".join(parts).replace("\n", "\\n"))


def _value(value: object) -> str:
    text = str(value)
    return f'"{text}"' if (" " in text or not text or "\n" in text) else text


def set_up_logs(level: str, stream: TextIO | None = None) -> Redactor:
    """Send the `bulkhead` loggers to `stream` (standard error by default). Returns the redactor of that sink."""
    redactor = Redactor()
    handler = _handler_of(stream or sys.stderr)
    handler.setFormatter(LineFormatter(redactor))
    root = logging.getLogger("bulkhead")
    root.handlers[:] = [handler]
    set_level(level)
    root.propagate = False
    logging.raiseExceptions = False  # a full or closed log sink never stops the service (H07)
    return redactor


def _handler_of(stream: TextIO | None) -> logging.Handler:
    if stream is None:  # standard error was closed when the process began
        return logging.NullHandler()
    try:
        return DescriptorHandler(stream.fileno())
    except (OSError, ValueError):  # a text in memory
        return logging.StreamHandler(stream)


def set_level(level: str) -> None:
    """From now on the `bulkhead` loggers say what is at least this important."""
    root, wanted = logging.getLogger("bulkhead"), logging.getLevelName(level.upper())
    if root.level != wanted:  # setting it visits every logger of the process
        root.setLevel(wanted)
