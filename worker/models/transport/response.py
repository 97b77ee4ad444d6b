"""Define what a response of a provider offers its reader, and the one error of the transport."""

from collections.abc import Mapping
from typing import Protocol

from worker.models.client import Category


class TransportError(Exception):
    """A request could not be sent, or its response not be read. The text contains no header and no body."""

    def __init__(self, category: Category, message: str) -> None:
        super().__init__(message)
        self.category: Category = category
        self.message = message


class ProviderResponse(Protocol):
    """One response. It ends with exactly one of `release` and `abort`; a second call has no effect."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers; names are found regardless of their case."""
        ...

    async def read(self) -> bytes:
        """Return what has arrived, waiting for at least one byte; b"" at the end. Raises TransportError (`network`)."""
        ...

    def interrupt(self, error: Exception) -> None:
        """Make the pending `read` raise `error`, and abort."""
        ...

    def release(self) -> None:
        """Give the connection back once the rest of the body has arrived, which is awaited for a second at most."""
        ...

    def abort(self) -> None:
        """Close the connection at once, also if data is still to be sent."""
        ...
