"""Run every statement of the store once, on a database in memory, so that a forked worker finds them compiled."""

import random
import sqlite3

from protocol.api.file import FileVersion
from protocol.api.message import Message
from protocol.api.permission import PermissionRequest
from protocol.api.session import Session
from worker.store import events
from worker.store.database import Transaction
from worker.store.engine import wrap
from worker.store.migrations import migrate
from worker.store.rows import RequestState, StoredRequest, StoredRun
from worker.store.tables import file_versions, messages, permission_requests, read_files, runs, sessions


def warm_up_store() -> None:
    """Run the statements; leaves nothing open."""
    raw = sqlite3.connect(":memory:", isolation_level=None)
    migrate(raw, random.Random(0), "")
    connection = wrap(raw)
    transaction = Transaction(connection)
    session = Session(id="s", title="", created_at=1, updated_at=1)
    sessions.create(connection, session)
    sessions.exists(connection, "s")
    sessions.get(connection, "s")
    sessions.top_level(connection)
    sessions.family(connection, "s")
    sessions.put(connection, "s", title=None, cost=None, todos=[], now=1)
    sessions.title_if_untitled(connection, "s", "title")
    sessions.account(connection, "s", input_tokens=1, output_tokens=1, cost=0.0, now=1)
    runs.last_accept_seq(connection)
    runs.accept(connection, StoredRun(id="r", session_id="s", accept_seq=1, prompt="p"))
    runs.get(connection, "r")
    runs.newest(connection, 1)
    runs.newest(connection, 1, "s")
    runs.open_runs(connection)
    runs.count_death(connection, "r")
    runs.start(connection, "r", 1)
    message = Message(id="m", session_id="s", role="user", parts=[])
    messages.create(connection, message, run_id="r")
    messages.change(connection, message)
    messages.get(connection, "m")
    messages.of_session(connection, "s")
    messages.history(connection, "s", "m")
    messages.of_run(connection, "s", "r")
    messages.user_of_session(connection, "s")
    messages.user_of_workspace(connection, 1)
    runs.set_message(connection, "r", "m")
    runs.end(connection, "r", outcome="completed", cause="", message_id="m", now_ms=1)
    read_files.record(connection, "s", "/f", "", 1)
    read_files.last(connection, "s", "/f")
    read_files.paths(connection, "s")
    request = StoredRequest("a", "permission", "s", "r", "c", tool="bash", action="execute", path="/")
    permission_requests.is_granted(connection, request)
    permission_requests.add(connection, request, body=PermissionRequest(id="a"), number=1, now_ms=1)
    permission_requests.outcome(connection, "a")
    permission_requests.end(connection, "a", RequestState.RESOLVED, "allow", 1)
    permission_requests.grant(connection, request, 1)
    permission_requests.end_of_run(transaction, "r", RequestState.VOID, "", 1)
    file_versions.add(connection, FileVersion(id="f", session_id="s", path="/f", content="x"))
    file_versions.last(connection, "s", "/f")
    file_versions.of_session(connection, "s")
    file_versions.thin(connection, "s", "/f", 1, 0)
    transaction.emit(session, "created", session_id="s")
    events.since(connection, 0, 1)
    events.prune(connection, kept=1, kept_bytes=1)
    events.log_id(connection)
    sessions.remove(connection, "s")
    connection.close()
