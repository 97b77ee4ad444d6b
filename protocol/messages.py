"""Every message that crosses the socket between supervisor and worker: two tagged unions.

A message is complete without its history and carries ids, not positions. Budgets travel in the message, so both
sides count the same clock. New fields are optional; a new meaning gets a new message.

Order: messages of one link arrive in the order they were sent, in each direction. Nothing else is promised.

A conversation: on every new connection the worker says `Hello`; the supervisor answers `Welcome` (or `Refusal`);
the worker says `Ready` once recovery is done. From then on `Call`/`Answer`, `EventBatch`/`Credit` and `Heartbeat`
interleave, until `Shutdown`, `Closing` and `LastWord`.
"""

import msgspec

from protocol.errors import ErrorInfo
from protocol.events import Event
from protocol.ids import Epoch, Generation, RunId, WorkspaceId


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", omit_defaults=True):
    """What all messages share: frozen, named fields, a tag."""


# --- supervisor to worker -----------------------------------------------------------------------------------------


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The supervisor accepts this worker. A worker obeys the highest epoch it has ever heard, and no lower one."""

    epoch: Epoch
    credit: int  # numbered events the worker may send before it hears of more


class Refusal(Message, frozen=True, kw_only=True, tag="refusal"):
    """The supervisor does not accept this worker (version, token, generation); it will be ended."""

    error: ErrorInfo


class Call(Message, frozen=True, kw_only=True, tag="call"):
    """Do an operation and answer. Repeating a call with the same `call_id` gives the same answer, and one effect."""

    call_id: str
    epoch: Epoch
    operation: str  # a name of protocol.operations
    args: dict[str, str] = {}  # from the path and the query
    body: bytes = b""  # JSON, unread by the supervisor
    within_s: float  # seconds left for the whole operation when the call was sent


class CancelCall(Message, frozen=True, kw_only=True, tag="cancel_call"):
    """Nobody waits for this call any more. Only operations bound to their caller end because of it."""

    call_id: str
    epoch: Epoch


class Credit(Message, frozen=True, kw_only=True, tag="credit"):
    """`more` numbered events may follow."""

    more: int


class Attached(Message, frozen=True, kw_only=True, tag="attached"):
    """So many clients listen to the workspace now: they would see a request. Said at each change and each hello."""

    epoch: Epoch
    clients: int


class Shutdown(Message, frozen=True, kw_only=True, tag="shutdown"):
    """End this worker in order: refuse, cancel, drain, flush, leave. Answered by `Closing` and `LastWord`."""

    epoch: Epoch
    reason: str
    drain_s: float  # how long runs may take to end after their cancel
    flush_s: float  # how long the last writes may take; then the worker leaves anyway


# --- worker to supervisor -----------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """Who connects. Sent on every new connection, so a restarted supervisor is found again."""

    wire_version: int
    code_version: str
    workspace_id: WorkspaceId
    generation: Generation
    token: str
    pid: int
    start_ticks: int  # with the boot id, the identity of the process
    boot_id: str
    epoch: Epoch  # the highest epoch this worker has heard, 0 for none
    ready: bool  # recovery was done before this connection
    log_id: str = ""  # of the event log, once it is open
    last_number: int = 0
    open_runs: int = 0
    failed: str = ""  # as in `Ready`


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    """Recovery is done; calls are answered from now on."""

    log_id: str
    last_number: int
    open_runs: int
    interrupted: list[RunId] = []  # the runs that recovery ended
    requeued: list[RunId] = []  # the runs that had not begun and start now
    failed: str = ""  # why this worker can store nothing though it answers what is only read, "" when it can


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """From the worker's own loop, every `heartbeat_interval_s`."""

    sequence: int
    loop_lag_s: float
    open_runs: int  # accepted, queued or active
    open_questions: int = 0  # permissions and questions that wait
    children: int = 0  # live children of tools
    last_number: int = 0
    degraded: str = ""  # why this worker serves less than it should, "" when all is well
    failed: str = ""  # as in `Ready`


class Answer(Message, frozen=True, kw_only=True, tag="answer"):
    """The outcome of a call: a status with a JSON body, or an error."""

    call_id: str
    status: int = 200
    body: bytes = b""
    error: ErrorInfo | None = None


class EventBatch(Message, frozen=True, kw_only=True, tag="events"):
    """Events in their order. Numbered ones follow each other without a hole; snapshots lie between them."""

    events: list[Event]


class Closing(Message, frozen=True, kw_only=True, tag="closing"):
    """A stage of the shutdown was reached: `closing`, `draining`, `flushing`, `closed`."""

    stage: str
    open_runs: int


class LastWord(Message, frozen=True, kw_only=True, tag="last_word"):
    """The worker leaves by itself, exit code 0, and says what was done."""

    reason: str
    last_number: int
    cancelled_runs: int
    left_runs: list[RunId]  # not ended within the budget: recovery's work
    flushed: bool


ToWorker = Welcome | Refusal | Call | CancelCall | Credit | Attached | Shutdown
ToSupervisor = Hello | Ready | Heartbeat | Answer | EventBatch | Closing | LastWord
