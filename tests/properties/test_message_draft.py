"""A growing message: at most one part of each single kind, a stable order, and all output of the model."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.api.message import FinishPart, Message, ReasoningPart, TextPart, ToolCallPart
from worker.agent.message_draft import MessageDraft, close_message, finish_of

texts = st.sampled_from(["a", "bc ", "\n", "\n\nx", "é"])


class Drafting(RuleBasedStateMachine):
    """Applies the events of a stream to a draft and to a simple model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = MessageDraft(Message(id="m", session_id="s", role="assistant", parts=[]))
        self.received = ""  # the growing string of a receiver that gets what is appended
        self.now = 1
        self.start_again()

    def start_again(self) -> None:
        self.text, self.thinking = "", ""
        self.calls: dict[str, str | None] = {}
        self.order: list[str] = []
        self.closed_blocks = 0
        self.is_open = False

    @rule(text=texts)
    def add_text(self, text: str) -> None:
        self.draft.add_text(text)
        kept = text[1:] if not self.order and text.startswith("\n") else text
        if kept:
            self._add_part("text")
        self.text += kept

    @rule(text=texts)
    def add_thinking(self, text: str) -> None:
        self.now += 1
        self.draft.add_thinking(text, self.now)
        self._add_part("reasoning")
        self.thinking += text
        self.is_open = True

    @rule(signature=st.sampled_from(["", "sig"]))
    def end_thinking(self, signature: str) -> None:
        self.now += 1
        self.draft.end_thinking(self.now, signature=signature, provider="p")
        if self.is_open or signature:
            self._add_part("reasoning")
            self.closed_blocks += 1
        self.is_open = False

    @rule(call_id=st.sampled_from(["c1", "c2", "c3"]))
    def start_call(self, call_id: str) -> None:
        self.draft.start_tool_call(call_id, "ls")
        self._add_part(call_id)
        self.calls[call_id] = None

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def end_call(self, data: st.DataObject) -> None:
        call_id = data.draw(st.sampled_from(sorted(self.calls)))
        self.draft.end_tool_call(call_id, '{"x":1}')
        self.calls[call_id] = '{"x":1}'

    @rule()
    def reset(self) -> None:
        self.draft.reset()
        self.start_again()

    @rule()
    def take(self) -> None:
        appended = self.draft.take_appended()
        if appended is None:
            self.received = self.draft.growing_text
        else:
            assert appended.at == len(self.received)
            self.received += appended.text
            assert self.received == self.draft.growing_text

    @invariant()
    def the_snapshot_agrees_with_the_model(self) -> None:
        snapshot = self.draft.snapshot()
        kinds = [type(part) for part in snapshot.parts]
        assert all(kinds.count(kind) <= 1 for kind in (TextPart, ReasoningPart, FinishPart))
        names: list[str] = []
        for part in snapshot.parts:
            match part:
                case TextPart(data):
                    assert data.text == self.text
                    names.append("text")
                case ReasoningPart(data):
                    assert "".join(data.thinking.split()) == "".join(self.thinking.split())
                    assert len(data.blocks) == self.closed_blocks + self.is_open
                    assert (data.finished_at == 0) == self.is_open
                    names.append("reasoning")
                case ToolCallPart(data):
                    assert data.input == (self.calls[data.id] or "")
                    assert data.finished == (self.calls[data.id] is not None)
                    names.append(data.id)
        assert names == self.order

    @invariant()
    def it_can_be_closed_at_any_moment(self) -> None:
        closed = close_message(self.draft.snapshot(), "canceled", self.now)
        assert isinstance(closed.parts[-1], FinishPart)
        assert finish_of(closed) is not None
        for part in closed.parts:
            if isinstance(part, ToolCallPart):
                assert part.data.finished
                assert part.data.input
            if isinstance(part, ReasoningPart):
                assert part.data.finished_at

    def _add_part(self, name: str) -> None:
        if name not in self.order:
            self.order.append(name)


TestDrafting = Drafting.TestCase
