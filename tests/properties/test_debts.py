"""Random facts for the book of open work: nothing that may be open is forgotten, few are woken at once, all in turn."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.ids import WorkspaceId
from supervisor.workspaces.debts import AT_ONCE_MAX, CLEAR_AFTER_S, DebtBook, DebtFacts

NAMES = [WorkspaceId(f"w{number}") for number in range(12)]
names = st.sampled_from(NAMES)


class Books(RuleBasedStateMachine):
    """Acts as clients, workers and time."""

    def __init__(self) -> None:
        super().__init__()
        self.book = DebtBook()
        self.now = 1000.0
        self.open_runs = dict.fromkeys(NAMES, 0)
        self.state = dict.fromkeys(NAMES, "asleep")
        self.may_be_open: set[WorkspaceId] = set()  # a run may be open, as far as anybody can know

    @rule(name=names)
    def accept(self, name: WorkspaceId) -> None:
        self.book.accept(name)
        self.open_runs[name] += 1
        self.may_be_open.add(name)
        self.state[name] = "ready"

    @rule(name=names)
    def end_one(self, name: WorkspaceId) -> None:
        if self.state[name] == "ready" and self.open_runs[name]:
            self.open_runs[name] -= 1

    @rule(name=names)
    def crash(self, name: WorkspaceId) -> None:
        self.state[name] = "asleep"

    @rule(name=names)
    def become_ready(self, name: WorkspaceId) -> None:
        if self.state[name] == "starting":
            self.state[name] = "ready"

    @rule(name=names)
    def report(self, name: WorkspaceId) -> None:
        if self.state[name] == "ready":
            self.book.observe(name, DebtFacts("ready", self.open_runs[name]), self.now)
            if not self.open_runs[name]:
                self.may_be_open.discard(name)

    @rule(name=names)
    def leave_in_order(self, name: WorkspaceId) -> None:
        if self.state[name] == "ready":
            self.state[name] = "asleep"
            self.book.observe(name, DebtFacts("asleep", left_open=self.open_runs[name]), self.now)
            if not self.open_runs[name]:
                self.may_be_open.discard(name)
                assert name not in self.book.owing

    @rule(name=names)
    def look_during_a_call(self, name: WorkspaceId) -> None:
        owed = name in self.book.owing
        self.book.observe(name, DebtFacts(self.state[name], open_runs=0, calls=1, left_open=0), self.now)
        assert (name in self.book.owing) is owed

    @rule(name=names)
    def look_without_a_report(self, name: WorkspaceId) -> None:
        owed = name in self.book.owing
        self.book.observe(name, DebtFacts(self.state[name]), self.now)
        assert (name in self.book.owing) is owed

    @rule(seconds=st.floats(0, 2 * CLEAR_AFTER_S))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wake(self) -> None:
        before = sum(self.state[name] == "starting" for name in self.book.owing)
        due = self.book.due(self.state, self.now)
        assert len(due) == len(set(due)) <= max(0, AT_ONCE_MAX - before)
        for name in due:
            assert self.state[name] == "asleep"
            assert name in self.book.owing
            self.state[name] = "starting"

    @rule()
    def replace_the_server(self) -> None:
        self.book = DebtBook(self.book.owing)
        for name in NAMES:
            self.state[name] = "asleep"

    @invariant()
    def nothing_that_may_be_open_is_forgotten(self) -> None:
        assert self.may_be_open <= set(self.book.owing)
        assert all(count >= 1 for count in self.book.owing.values())

    def teardown(self) -> None:
        """Every workspace that owes is woken at last."""
        for name in self.book.owing:
            self.state[name] = "asleep"
        woken: set[WorkspaceId] = set()
        for _ in range(2 * len(NAMES)):
            self.now += 3600.0
            due = self.book.due(self.state, self.now)
            woken |= set(due)
            for name in due:
                self.state[name] = "ready"
        assert woken == set(self.book.owing)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
