"""The one retry layer: is there another attempt at this request, and after how long.

The clients of the provider libraries are built without retries of their own. The turn asks here, and only for a
request none of whose tools has run yet.
"""

from protocol.base.backoff import Backoff
from protocol.limits import Limits
from worker.models.client import ModelFailure

PATIENCE_S = 60.0
"""A provider's `Retry-After` below this is obeyed even when it is longer than our own delay."""


def delay_before_retry(failure: ModelFailure, attempts: int, limits: Limits) -> float | None:
    """Seconds to wait before the next attempt, None for no more attempts.

    `attempts` counts those that were made, so it is at least 1. Our own delay doubles with each. A `Retry-After` is
    used instead if it is above 0 and either below a minute or shorter than our own delay.
    """
    if not failure.retryable or attempts > limits.model_retries_max:
        return None
    own_s = Backoff(limits.model_retry_delay_s, limits.model_retry_delay_s_max).delay_s(attempts - 1)
    asked_s = failure.retry_after_s
    if asked_s is not None and asked_s > 0 and (asked_s < PATIENCE_S or asked_s < own_s):
        return asked_s
    return own_s
