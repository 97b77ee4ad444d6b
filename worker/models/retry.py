"""Decide whether, and after which delay, a request is retried. This is the only retry layer.

The provider libraries are set up without retries of their own. The turn decides here, and only for a request none of
whose tools has run yet.
"""

from protocol.base.backoff import Backoff
from protocol.limits import Limits
from worker.models.client import ModelFailure

PATIENCE_S = 60.0
"""A `Retry-After` below this is honoured even when it is longer than our own delay."""


def delay_before_retry(failure: ModelFailure, attempts: int, limits: Limits) -> float | None:
    """Return the seconds to wait before the next attempt, None for no further attempt.

    `attempts` is the number of attempts made, at least 1. Our own delay doubles with each. A `Retry-After` is used
    instead if it is above 0 and either below a minute or shorter than our own delay.
    """
    if not failure.retryable or attempts > limits.model_retries_max:
        return None
    own_s = Backoff(limits.model_retry_delay_s, limits.model_retry_delay_s_max).delay_s(attempts - 1)
    retry_after_s = failure.retry_after_s
    if retry_after_s is not None and retry_after_s > 0 and (retry_after_s < PATIENCE_S or retry_after_s < own_s):
        return retry_after_s
    return own_s
