"""Text without lone surrogates."""

import json

from hypothesis import given
from hypothesis import strategies as st

from protocol.base.text import join_surrogates, replace_surrogates, replace_surrogates_in

ANY_TEXT = st.text(st.characters())  # with surrogates
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(text=ANY_TEXT)
def test_the_result_can_be_stored_and_has_the_same_length(text: str) -> None:
    clean = replace_surrogates(text)
    clean.encode()
    assert len(clean) == len(text)
    assert all(new == old or "\ud800" <= old <= "\udfff" for new, old in zip(clean, text, strict=True))
    join_surrogates(text).encode()


@given(value=JSON)
def test_surrogates_are_replaced_in_all_texts_of_a_value(value: object) -> None:
    json.dumps(replace_surrogates_in(value), ensure_ascii=False).encode()


def test_pairs_of_surrogates_are_joined() -> None:
    assert join_surrogates("a\ud83d\ude00b\ud83dc") == "a\U0001f600b\ufffdc"
    assert replace_surrogates("a\ud83d\ude00é") == "a??é"
    assert replace_surrogates_in({"k\udcff": ("x\udcff", [1, None])}) == {"k?": ["x?", [1, None]]}
