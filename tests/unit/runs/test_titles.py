"""Test titles: a session without a name gets one, once, without changing the run or its token counts."""

from pathlib import Path

import pytest

from protocol.api.message import FinishReason
from protocol.api.provider import Model
from protocol.base.clock import SystemClock
from tests.support.harness.worker_harness import WorkerHarness, open_worker_harness, until
from tests.unit.agent.agent_harness import LIMITS, LOG, PlayedModel, Script
from worker.agent.titles import PROMPT_CHARACTERS, title_of, title_request
from worker.models.client import Finished, TextDelta, Tokens
from worker.models.failures import failure
from worker.runs.titles import Titles
from worker.store.tables import sessions


class TitleModel(PlayedModel):
    model = Model(id="titles", cost_per_1m_in=1_000_000.0)


class ReasoningModel(PlayedModel):
    model = Model(id="reasoning", can_reason=True)


def answer_with(*texts: str, reason: FinishReason = "end_turn") -> Script:
    return [*(TextDelta(text) for text in texts), Finished(reason, Tokens(input=2))]


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Paint the fence", "Paint the fence"),
        ('  "Paint\nthe   fence"\n', "Paint the fence"),
        ("<think>a title, hm\n</think>\nPaint", "Paint"),
        ("<think>never ends", ""),
        ("**Bold**", "Bold"),
        ("", ""),
        ("x" * 80, "x" * 49 + "…"),
    ],
)
def test_a_title_is_one_short_line_of_the_answer(answer: str, title: str) -> None:
    assert title_of(answer) == title


def test_the_title_request_is_bounded() -> None:
    request = title_request("p" * 100_000, thinks=False)
    assert len(request.messages[0].parts[0].data.text) < PROMPT_CHARACTERS + 100
    assert request.max_tokens > 0
    assert title_request("p", thinks=True).max_tokens == 0


async def _first_run(house: WorkerHarness, title: str, prompt: str = "paint the fence please") -> None:
    await house.session(title=title)
    run_id = await house.submit(prompt)
    await house.model.asked()
    house.model.answer("done")
    await house.ended(run_id)


def _titles(house: WorkerHarness, model: TitleModel) -> Titles:
    return Titles(database=house.database, models=lambda: [model], limits=LIMITS, clock=SystemClock(), log=LOG)


async def _title(house: WorkerHarness) -> str:
    session = await house.database.read(lambda connection: sessions.get(connection, "s1"))
    assert session is not None
    return session.title


async def test_an_untitled_session_gets_a_title_and_keeps_its_token_counts(tmp_path: Path) -> None:
    title_model = TitleModel(answer_with("Fence ", "painting"))
    async with open_worker_harness(tmp_path, title_models=[title_model]) as house:
        await _first_run(house, "")
        await until(lambda: any(event["title"] == "Fence painting" for event in house.of_kind("session")))
        session = await house.database.read(lambda connection: sessions.get(connection, "s1"))
        assert session is not None
        assert session.cost == 2.0  # only of the title: the model of the run is free
        assert (session.prompt_tokens, session.completion_tokens) == (3, 2)
        run_id = await house.submit("and the gate")
        await house.model.asked()
        house.model.answer("done")
        await house.ended(run_id)
        assert len(title_model.requests) == 1


@pytest.mark.parametrize(
    "first", [[failure("server", "no")], answer_with("half a ti", reason="max_tokens"), answer_with("")]
)
async def test_the_next_model_is_asked_when_the_first_gives_no_title(tmp_path: Path, first: Script) -> None:
    second = ReasoningModel(answer_with("From the second"))
    async with open_worker_harness(tmp_path, title_models=[TitleModel(first), second]) as house:
        await _first_run(house, "New Session")
        await until(lambda: any(event["title"] == "From the second" for event in house.of_kind("session")))


async def test_W_34_a_title_chosen_by_the_user_is_not_replaced(tmp_path: Path) -> None:
    title_model = TitleModel(answer_with("Mine"))
    async with open_worker_harness(tmp_path, title_models=[title_model]) as house:
        await _first_run(house, "chosen by hand")
        assert await _title(house) == "chosen by hand"
        assert title_model.requests == []


async def test_W_34_a_title_chosen_while_the_model_answers_is_not_replaced(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await _first_run(house, "", "paint")
        assert await _title(house) == "paint"

        async def rename() -> None:
            await house.database.write(
                lambda transaction: sessions.put(
                    transaction.connection, "s1", title="by hand", cost=None, todos=None, now=1
                )
            )

        titles = _titles(house, TitleModel([rename, *answer_with("Of a model")]))
        await titles.name("s1", "paint", "paint")
        assert await _title(house) == "by hand"


async def test_without_a_title_model_the_title_is_the_beginning_of_the_prompt(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await _first_run(house, "")
        assert await _title(house) == "paint the fence please"
        assert house.of_kind("session")[0]["title"] == "paint the fence please"
