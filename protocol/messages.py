"""Define the messages between supervisor and worker: two tagged unions.

A message can be understood without earlier ones, and refers to objects by id, not by position. Time budgets are in the
message, so that both sides use the same ones. New fields are optional; a new meaning needs a new message.

Order: the messages of one link arrive in the order they were sent, in each direction. Nothing else is guaranteed.

Sequence: on every new connection the worker sends `Hello`, and the supervisor replies with `Welcome` or `Refusal`. The
worker sends `Ready` once recovery is done. From then on `Call`/`Answer`, `EventBatch`/`Credit`/`SendWhole` and
`Heartbeat` interleave, until `Shutdown`, `Closing` and `LastWord`.
"""

import msgspec

from protocol.errors import ErrorInfo
from protocol.events import Event
from protocol.ids import Epoch, Generation, RunId, WorkspaceId


class WireMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", omit_defaults=True):
    """The base of all messages: immutable, with named fields and a tag."""


# --- supervisor to worker -----------------------------------------------------------------------------------------


class Welcome(WireMessage, frozen=True, kw_only=True, tag="welcome"):
    """The supervisor accepts this worker. A worker obeys the highest epoch it has received, and no lower one."""

    epoch: Epoch
    credit: int  # numbered events that the worker may send before it receives more credit
    takes_growth: bool = False  # events with a `growth` may be sent


class Refusal(WireMessage, frozen=True, kw_only=True, tag="refusal"):
    """The supervisor rejects this worker because of its version, token or generation, and will end it."""

    error: ErrorInfo


class Call(WireMessage, frozen=True, kw_only=True, tag="call"):
    """Run an operation and reply. A repeated call with the same `call_id` has no further effect and the same reply."""

    call_id: str
    epoch: Epoch
    operation: str  # a name of protocol.operations
    args: dict[str, str] = {}  # from the path and the query
    body: bytes = b""  # JSON, not parsed by the supervisor
    within_s: float  # seconds left for the whole operation when the call is sent


class CancelCall(WireMessage, frozen=True, kw_only=True, tag="cancel_call"):
    """The caller no longer waits for this call. This ends only operations that are bound to their caller."""

    call_id: str
    epoch: Epoch


class Credit(WireMessage, frozen=True, kw_only=True, tag="credit"):
    """The worker may send `more` further numbered events."""

    more: int


class SendWhole(WireMessage, frozen=True, kw_only=True, tag="send_whole"):
    """The growth of the snapshots with these keys did not fit, because an event was lost: send them whole."""

    keys: list[str]


class Attached(WireMessage, frozen=True, kw_only=True, tag="attached"):
    """The number of clients attached to the workspace, which would see a request. Sent on each change and hello."""

    epoch: Epoch
    clients: int


class Shutdown(WireMessage, frozen=True, kw_only=True, tag="shutdown"):
    """Shut down in order: refuse new work, cancel, drain, flush, exit. The replies are `Closing` and `LastWord`."""

    epoch: Epoch
    reason: str
    drain_s: float  # how long runs may take to end after they are cancelled
    flush_s: float  # how long the last writes may take; then the worker exits anyway
    cancel_queued: bool = False  # cancel also the runs that have not begun; else the next worker runs them


# --- worker to supervisor -----------------------------------------------------------------------------------------


class Hello(WireMessage, frozen=True, kw_only=True, tag="hello"):
    """The worker introduces itself. Sent on every new connection, so that a restarted supervisor adopts it."""

    wire_version: int
    code_version: str
    workspace_id: WorkspaceId
    generation: Generation
    token: str
    pid: int
    start_ticks: int  # with pid and boot id, this identifies the process
    boot_id: str
    epoch: Epoch  # the highest epoch that this worker has received, 0 for none
    ready: bool  # recovery was done before this connection
    log_id: str = ""  # of the event log, once it is open
    last_number: int = 0
    open_runs: int = 0
    failed: str = ""  # as in `Ready`


class Ready(WireMessage, frozen=True, kw_only=True, tag="ready"):
    """Recovery is done; the worker answers calls from now on."""

    log_id: str
    last_number: int
    open_runs: int
    interrupted: list[RunId] = []  # the runs that recovery ended
    requeued: list[RunId] = []  # the runs that had not begun, and are queued again
    failed: str = ""  # why this worker can only read and not store anything, "" if it can store


class Heartbeat(WireMessage, frozen=True, kw_only=True, tag="heartbeat"):
    """Sent by the worker's event loop every `heartbeat_interval_s`, more seldom while the worker is idle."""

    sequence: int
    loop_lag_s: float
    interval_s: float = 0.0  # the next one comes within this time; 0: within `heartbeat_interval_s`
    open_runs: int  # accepted, queued or active
    open_questions: int = 0  # open permission requests and questions
    children: int = 0  # live child processes of tools
    holds_choices: bool = False  # something that clients chose is only in this process, or a server of an extension
    last_number: int = 0
    degraded: str = ""  # why this worker has reduced service, "" if it has not
    failed: str = ""  # as in `Ready`


class Answer(WireMessage, frozen=True, kw_only=True, tag="answer"):
    """The reply to a call: a status with a JSON body, or an error."""

    call_id: str
    status: int = 200
    body: bytes = b""
    error: ErrorInfo | None = None


class EventBatch(WireMessage, frozen=True, kw_only=True, tag="events"):
    """Events in order. The numbers of numbered events have no gaps; snapshots and their growth may be in between."""

    events: list[Event]


class Closing(WireMessage, frozen=True, kw_only=True, tag="closing"):
    """The shutdown has reached a stage: `closing`, `draining`, `flushing` or `closed`."""

    stage: str
    open_runs: int


class LastWord(WireMessage, frozen=True, kw_only=True, tag="last_word"):
    """The worker exits by itself with code 0 after this report of its shutdown."""

    reason: str
    last_number: int
    cancelled_runs: int
    left_runs: list[RunId]  # not ended within the budget; the next recovery ends them
    held_runs: list[RunId] = []  # accepted and not begun; the next worker runs them
    flushed: bool


ToWorker = Welcome | Refusal | Call | CancelCall | Credit | SendWhole | Attached | Shutdown
ToSupervisor = Hello | Ready | Heartbeat | Answer | EventBatch | Closing | LastWord
