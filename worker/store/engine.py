"""Wrap connections that the database thread opens itself for SQLAlchemy."""

import sqlite3
import threading

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

_wrapping = threading.local()
# One engine for the process: its dialect and its compiled statements are warm before the fork. It owns nothing.
_ENGINE = create_engine(
    "sqlite+pysqlite://",
    creator=lambda: _wrapping.raw,
    poolclass=NullPool,
    isolation_level="AUTOCOMMIT",  # the database thread begins and commits, IMMEDIATE and with savepoints
    skip_autocommit_rollback=True,
)


def wrap(raw: sqlite3.Connection) -> Connection:
    """Return a SQLAlchemy connection over `raw`; closing it closes `raw`."""
    _wrapping.raw = raw
    return _ENGINE.connect()
