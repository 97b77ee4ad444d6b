"""Define the tables of a workspace's file, in SQLAlchemy Core, and their DDL, compiled once at import.

Times are Unix seconds unless the name says `_ms`. `messages.seq`, `runs.accept_seq` and `events.number` are the
orders of this workspace: rows with the same second still have an order (W-23).
"""

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

SCHEMA_VERSION = 3

METADATA = MetaData()

META = Table("meta", METADATA, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

# Space without a use until the disk is full: a run's end takes it (D01).
RESERVE = Table("reserve", METADATA, Column("id", Integer, primary_key=True), Column("space", LargeBinary))

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("parent_session_id", Text, nullable=False, server_default=""),
    Column("title", Text, nullable=False, server_default=""),
    Column("message_count", Integer, nullable=False, server_default="0"),
    Column("prompt_tokens", Integer, nullable=False, server_default="0"),
    Column("completion_tokens", Integer, nullable=False, server_default="0"),
    Column("summary_message_id", Text, nullable=False, server_default=""),
    Column("cost", Float, nullable=False, server_default="0"),
    Column("todos", LargeBinary, nullable=False, server_default="[]"),
    Column("created_at", Integer, nullable=False),
    Column("updated_at", Integer, nullable=False),
)

MESSAGES = Table(
    "messages",
    METADATA,
    Column("seq", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("run_id", Text, nullable=False, server_default=""),
    Column("role", Text, nullable=False),
    Column("parts", LargeBinary, nullable=False),
    Column("model", Text, nullable=False, server_default=""),
    Column("provider", Text, nullable=False, server_default=""),
    Column("is_summary_message", Integer, nullable=False, server_default="0"),
    Column("created_at", Integer, nullable=False),
    Column("updated_at", Integer, nullable=False),
)

# Runs outlive their session: the id is the idempotency key of the workspace, and the outcome can still be read.
RUNS = Table(
    "runs",
    METADATA,
    Column("accept_seq", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("session_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("outcome", Text, nullable=False, server_default=""),
    Column("cause", Text, nullable=False, server_default=""),
    Column("prompt", Text, nullable=False),
    Column("attachments", LargeBinary, nullable=False, server_default="[]"),
    Column("keyed", Integer, nullable=False),
    Column("kind", Text, nullable=False, server_default="prompt"),
    Column("message_id", Text, nullable=False, server_default=""),
    Column("folded_into", Text, nullable=False, server_default=""),
    Column("deaths", Integer, nullable=False, server_default="0"),
    Column("accepted_at_ms", Integer, nullable=False),
    Column("started_at_ms", Integer, nullable=False, server_default="0"),
    Column("ended_at_ms", Integer, nullable=False, server_default="0"),
    Column("permission_policy", Text, nullable=False, server_default=""),
    Column("permission_wait_s", Float, nullable=False, server_default="0"),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False, server_default=""),
    Column("session_id", Text, nullable=False, server_default=""),
    Column("run_id", Text, nullable=False, server_default=""),
    Column("data", LargeBinary, nullable=False),
)

READ_FILES = Table(
    "read_files",
    METADATA,
    Column("session_id", Text, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("read_at_ms", Integer, nullable=False),
)

FILES = Table(
    "files",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("path", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),  # compressed
    Column("version", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    UniqueConstraint("session_id", "path", "version"),
)

# Requests for permission and questions: the body is kept until the decision, the decision for ever.
ASKS = Table(
    "asks",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("run_id", Text, nullable=False),
    Column("tool_call_id", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),  # the request while it is open; then it is empty
    Column("number", Integer, nullable=False),  # of the event that showed it
    Column("state", Text, nullable=False),
    Column("resolution", Text, nullable=False, server_default=""),
    Column("asked_at_ms", Integer, nullable=False),
    Column("ended_at_ms", Integer, nullable=False, server_default="0"),
)

GRANTS = Table(
    "grants",
    METADATA,
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("tool", Text, primary_key=True),
    Column("action", Text, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("granted_at_ms", Integer, nullable=False),
)

ASKS_OPEN = Index("asks_open", ASKS.c.run_id, sqlite_where=text("state = 'open'"))
ASKS_SESSION = Index("asks_session", ASKS.c.session_id)

INDEXES = (
    Index("messages_session", MESSAGES.c.session_id),
    Index("sessions_parent", SESSIONS.c.parent_session_id),
    Index("runs_open", RUNS.c.state, sqlite_where=text("state != 'ended'")),
    Index("runs_session", RUNS.c.session_id),
    ASKS_OPEN,
    ASKS_SESSION,
    # A second end of one run is impossible (P2).
    Index("events_run_complete", EVENTS.c.run_id, unique=True, sqlite_where=text("kind = 'run_complete'")),
)

_DIALECT = sqlite.dialect()


def table_ddl(table: Table) -> str:
    """Return the statement that creates a table."""
    return str(CreateTable(table).compile(dialect=_DIALECT)).strip()


def index_ddl(index: Index) -> str:
    """Return the statement that creates an index."""
    return str(CreateIndex(index).compile(dialect=_DIALECT)).strip()


DDL: tuple[str, ...] = tuple(
    [table_ddl(table) for table in METADATA.sorted_tables] + [index_ddl(index) for index in INDEXES]
)
"""The statements that create a new file, as plain text: a new worker does not compile them."""
