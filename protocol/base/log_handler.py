"""Write log lines to a descriptor without waiting for whatever reads them (H07).

A full pipe, a stopped terminal and a stuck log service block a write without limit. Lines to anything but a regular
file are therefore written by a thread, from a bounded queue; lines that do not fit, and those that cannot be written,
are counted and reported when there is room again. A regular file blocks no longer than any other use of its disk, and
is written directly: a thread for each worker would cost more memory than it is worth.
"""

import contextlib
import logging
import os
import queue
import stat
import threading

QUEUE_LINES = 1000
CLOSE_S = 1.0


class DescriptorHandler(logging.Handler):
    """Writes each record as one line. `lost` counts the lines that were not written."""

    def __init__(self, descriptor: int, *, queue_lines: int = QUEUE_LINES) -> None:
        super().__init__()
        self.lost = 0
        self._reported = 0  # of `lost`
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes | None] | None = None
        self._thread: threading.Thread | None = None
        if not _is_regular(descriptor):
            self._lines = queue.Queue(queue_lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Write or queue the record; never blocks on the reader and never raises."""
        try:
            line = self.format(record)
            if self.lost > self._reported:
                self._report(record)
            self._put(_encoded(line))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Let the thread write what is queued, for at most `CLOSE_S`."""
        if self._thread is not None and self._lines is not None:
            with contextlib.suppress(queue.Full):
                self._lines.put(None, timeout=CLOSE_S)
                self._thread.join(CLOSE_S)
        super().close()

    def _report(self, record: logging.LogRecord) -> None:
        lost = self.lost
        note = logging.LogRecord(
            record.name, logging.WARNING, "", 0, f"{lost - self._reported} log lines lost", (), None
        )
        if self._put(_encoded(self.format(note)), counts=False):
            self._reported = lost

    def _put(self, line: bytes, *, counts: bool = True) -> bool:
        if self._lines is None:
            return self._write(line, counts=counts)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._lines,), name="log", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.lost += counts
            return False
        return True

    def _run(self, lines: "queue.Queue[bytes | None]") -> None:
        while (line := lines.get()) is not None:
            self._write(line)

    def _write(self, line: bytes, *, counts: bool = True) -> bool:
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:  # a full disk, or a reader that is gone
            self.lost += counts
            return False
        return True


def lines_lost(log: logging.Logger) -> int:
    """Return how many lines the handlers of `log` could not write."""
    return sum(handler.lost for handler in log.handlers if isinstance(handler, DescriptorHandler))


def write_line(descriptor: int, text: str, *, is_last: bool = False) -> None:
    """Write one line outside of the log. Errors are ignored. Waits at most `CLOSE_S` for the reader of a last line."""
    handler = DescriptorHandler(descriptor)
    handler.emit(logging.LogRecord("", logging.INFO, "", 0, "%s", (text,), None))
    if is_last:
        handler.close()


def keep_standard_descriptors() -> None:
    """Open /dev/null in place of standard descriptors that are closed: a database opened later must not become one."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)


def _is_regular(descriptor: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _encoded(line: str) -> bytes:
    return line.encode(errors="backslashreplace") + b"\n"
