"""Check the scripted provider and the loads, through the bare relay; no figure is compared with a limit."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.provider import TITLE_TOKENS, TOKENS, chosen, directive
from benchmarks.token_path.bare_relay import bare_relay
from benchmarks.token_path.conversation import BareConversation
from benchmarks.token_path.figures import TARGETS, figures
from benchmarks.token_path.floors import through_relay
from benchmarks.token_path.helper_process import helper
from benchmarks.token_path.options import Options, quick


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hello", (TOKENS, 0)),
        (directive(7), (7, 0)),
        (directive(7, 50), (7, 50)),
        (f"{directive(7)} then {directive(9, 5)}", (9, 5)),
        ("[tokens=many]", (TOKENS, 0)),
    ],
)
async def test_the_last_directive_of_a_request_counts(prompt: str, expected: tuple[int, int]) -> None:
    assert chosen(b'{"model":"bench","messages":[{"content":"%b"}]}' % prompt.encode()) == expected


async def test_the_title_model_ignores_the_prompt() -> None:
    assert chosen(b'{"model": "title", "messages": [{"content": "[tokens=500]"}]}') == (TITLE_TOKENS, 0)


async def test_a_paced_token_carries_its_time(tmp_path: Path) -> None:
    async with helper("benchmarks.provider") as provider, bare_relay(tmp_path, int(provider.line)) as relay:
        conversation = await BareConversation.open(relay.relay_path)
        try:
            reply = await conversation.reply(5, rate=100)
            again = await conversation.reply(3)
        finally:
            conversation.close()
    assert len(reply.delays) == 5
    assert all(delay > 0 for delay in reply.delays)
    assert reply.posted <= reply.accepted <= reply.first <= reply.ended
    assert again.delays == []


async def test_the_loads_give_their_figures_and_every_figure_has_limits(tmp_path: Path) -> None:
    options = replace(quick(), replies=2, workspaces=2, clients=2, paced_s=0.1)
    async with helper("benchmarks.provider") as provider:
        values = await through_relay(tmp_path, int(provider.line), options)
    assert set(values) <= set(TARGETS)
    assert all(value > 0 for value in values.values())
    assert all(figure.must is None for figure in figures([values], {}, options)), "a smoke test has no limits"
    shown = figures([values, values], {}, Options())
    assert [figure.name for figure in shown][3] == "20 workspaces at once, 5 replies of 200 tokens each"
    assert all(figure.must is not None and figure.spread is not None for figure in shown)
