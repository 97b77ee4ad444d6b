"""Test what becomes of the errors of providers: their texts, categories, and the delay that they ask for."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.models.client import ModelFailure
from worker.models.wires.http_errors import failure_of, in_stream_failure


def refused(status: int, body: Any, **headers: str) -> ModelFailure:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return failure_of(status, given_headers, data, key_hint="set the key", secrets=("hidden-key",))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "m", "type": "t", "code": None}}, "m"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, "m"),
        ({"error": "m"}, "m"),
        ({"error": {"error": "m"}}, "m"),
        ({"message": "m"}, "m"),
        ({"detail": "m"}, "m"),
        ({"detail": {"message": "m"}}, "m"),
        ({"detail": [{"loc": ["body", 0], "msg": "a"}, {"msg": "b"}, 5]}, "body.0: a; b"),
        ([{"error": {"message": "m", "code": 400}}], "m"),
        ({"object": "error", "message": "m", "code": 400}, "m"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": '{"error": {"message": "m"}}'}}},
            "Provider returned error: m",
        ),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "m"}}}, "Provider returned error: m"),
        (b"m", "m"),
        (b"  m\r\n n ", "m n"),
        (b"<html><head><title>502 Bad &amp; Gateway</title></head><body>x</body></html>", "502 Bad & Gateway"),
        (b"<p>sorry</p><script>alert(1)</script>", "sorry"),
        (b"", "the provider answered with status 500"),
        ({}, "the provider answered with status 500"),
        ([], "the provider answered with status 500"),
        (5, "the provider answered with status 500"),
        (rb'{"error": {"message": "m\ud83d"}}', "m\ufffd"),
        (b'{"error": {"message": "m\xff"}}', "m\ufffd"),
    ],
)
def test_the_text_is_found_in_every_shape(body: Any, message: str) -> None:
    assert refused(500, body).message == message


@pytest.mark.parametrize(
    ("status", "error", "category", "retryable"),
    [
        (400, {}, "bad_request", False),
        (401, {}, "auth", False),
        (402, {}, "quota", False),
        (403, {}, "auth", False),
        (403, {"metadata": {"reasons": ["violence"]}}, "bad_request", False),
        (404, {}, "not_found", False),
        (404, {"type": "invalid_request_error"}, "not_found", False),
        (408, {}, "bad_request", True),
        (413, {}, "context_overflow", False),
        (422, {}, "bad_request", False),
        (429, {}, "rate_limit", True),
        (429, {"code": "insufficient_quota"}, "quota", False),
        (429, {"type": "exceeded_current_quota_error"}, "quota", False),
        (500, {}, "server", True),
        (500, {"code": "server_is_overloaded"}, "overloaded", True),
        (503, {}, "overloaded", True),
        (529, {}, "overloaded", True),
        (400, {"code": "context_length_exceeded"}, "context_overflow", False),
        (400, {"message": "prompt is too long: 9 tokens > 8 maximum"}, "context_overflow", False),
        (400, {"type": "exceed_context_size_error", "code": 400}, "context_overflow", False),
        (400, {"code": "model_not_found"}, "not_found", False),
        (400, {"code": "invalid_api_key"}, "auth", False),
        (200, {"code": 429}, "rate_limit", True),
        (200, {"type": "server_error"}, "server", True),
        (200, {}, "server", True),
    ],
)
def test_the_category_comes_from_the_code_and_else_from_the_status(
    status: int, error: dict[str, Any], category: str, retryable: bool
) -> None:
    failure = refused(status, {"error": {"message": "m"} | error})
    assert (failure.category, failure.retryable, failure.in_stream) == (category, retryable, False)
    assert failure.provider_status == (
        status if status != 200 else {"rate_limit": 429}.get(category, failure.provider_status)
    )


def test_L01_secrets_are_removed_and_only_a_401_says_where_the_key_belongs() -> None:
    failure = refused(401, {"error": {"message": "hidden-key is wrong.", "code": "hidden-key"}})
    assert failure.message == "*** is wrong; set the key"
    assert failure.provider_code == "***"
    assert "set the key" not in refused(403, {"error": {"message": "m"}}).message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after_ms": "1500", "retry_after": "7"}, 1.5),
        ({"retry_after_ms": "x", "retry_after": "7"}, 7.0),
        ({"retry_after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry_after": "Thu, 99 Jan 1970 00:00:00"}, None),
    ],
)
def test_L02_the_delay_that_the_provider_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert refused(429, {}, **headers).retry_after_s == seconds


def test_L02_the_delay_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert refused(429, {}, retry_after=date).retry_after_s == pytest.approx(3600, abs=60)


@pytest.mark.parametrize(("hint", "retryable"), [("true", True), ("FALSE", False), ("perhaps", False)])
def test_the_providers_own_word_about_retries_counts(hint: str, retryable: bool) -> None:
    assert refused(400, {}, x_should_retry=hint).retryable is retryable


@pytest.mark.parametrize("error", [None, 5, [], "", {}, {"message": None}, {"message": 5, "code": True, "type": []}])
def test_an_error_event_without_a_text_has_one(error: Any) -> None:
    assert in_stream_failure(error, secrets=()).message == "the provider ended the answer with an error"
    assert in_stream_failure(error, secrets=(), fallback="f").message == "f"
    assert in_stream_failure(error, secrets=()).category == "server"


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.sampled_from([200, 400, 500]))
def test_any_body_gives_a_failure_with_a_text(body: bytes, status: int) -> None:
    assert refused(status, body).message
