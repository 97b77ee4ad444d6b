"""Test that the tools of a request are encoded once, and again when they change."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tests.support.recorded_requests.tools import Tool
from worker.models.client import ToolShape
from worker.models.wires.encoded_tools import EncodedTools


class Names:
    """Declares tools by their name, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, tools: Sequence[ToolShape]) -> list[dict[str, Any]]:
        self.count += 1
        return [{"name": tool.name} for tool in tools]


def test_the_same_tools_are_encoded_once_and_others_again() -> None:
    names = Names()
    encoded = EncodedTools(names)
    tools = [Tool("a"), Tool("b")]
    assert bytes(encoded.encode(tools)) == b'[{"name":"a"},{"name":"b"}]'
    assert encoded.encode(tuple(tools)) is encoded.encode(tools)
    assert names.count == 1
    assert bytes(encoded.encode(tools[:1])) == b'[{"name":"a"}]'
    assert bytes(encoded.encode([Tool("c"), tools[1]])) == b'[{"name":"c"},{"name":"b"}]'
    assert names.count == 3


def test_old_sets_are_forgotten() -> None:
    names = Names()
    encoded = EncodedTools(names)
    for number in range(100):
        assert bytes(encoded.encode([Tool(str(number))])) == msgspec.json.encode([{"name": str(number)}])
    assert len(encoded._encoded) < 10


def test_half_a_surrogate_pair_in_a_name_is_replaced() -> None:
    assert bytes(EncodedTools(Names()).encode([Tool("a\ud83d")])) == b'[{"name":"a?"}]'
