"""When the attempt after a failed one may begin: by the class of its failure, and ever later while attempts fail in the same way. Pure.

In: the attempts and the failure policy. Out: a time. Whether there is another attempt at all is decided between two attempts.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from finetune_api.failure_class import failure_class
from finetune_api.finetunejob import FailurePolicy
from finetune_api.status import AttemptOutcome, AttemptStatus, FailureClass
from finetune_api.times import is_ahead, moment
from finetune_operator.failures import CHARGED

# Attempts that others ended come back soon, and ever later when it happens again and again.
UNCHARGED_BACKOFF_SECONDS: Final = 10.0
LONGEST_BACKOFF_SECONDS: Final = 3600.0
LONGEST_UNCHARGED_BACKOFF_SECONDS: Final = 600.0
# Storage that was there and is gone comes back by itself, and takes minutes for it: with `backoffSeconds: 30` and three failures allowed,
# an outage of half an hour ends no job.
STORAGE_FACTOR: Final = 10.0


def next_start(attempts: Sequence[AttemptStatus], policy: FailurePolicy, seed: str, *, now: datetime) -> datetime | None:
    """When the next attempt may begin; None is at once. Doubles as long as attempts fail in the same way.

    `seed` spreads the attempts of jobs that wait for the same GPUs. A clock that was set back doesn't lengthen the wait.
    """
    last = attempts[-1] if attempts else None
    done = moment(last.completion_time) if last else None
    if last is None or done is None or last.outcome in (None, AttemptOutcome.FINISHED, AttemptOutcome.STOPPED):
        return None
    if is_ahead(last.completion_time, now):
        return None
    again = _repetitions(attempts)
    if last.outcome in CHARGED:
        first = policy.backoff_seconds * (STORAGE_FACTOR if _class(last) is FailureClass.STORAGE else 1.0)
        seconds = min(first * 2.0**again, max(LONGEST_BACKOFF_SECONDS, first))
    else:
        seconds = min(UNCHARGED_BACKOFF_SECONDS * 2.0**again, LONGEST_UNCHARGED_BACKOFF_SECONDS)
        seconds *= 0.5 + _share(f"{seed}/{last.number}")
    return done + timedelta(seconds=seconds)


def _class(attempt: AttemptStatus) -> FailureClass | None:
    return failure_class(attempt.outcome, attempt.reason)


def _repetitions(attempts: Sequence[AttemptStatus]) -> int:
    """How many attempts before the last one failed in the same way as it, without a break."""
    count = 0
    for attempt in reversed(attempts[:-1]):
        if _class(attempt) is not _class(attempts[-1]):
            break
        count += 1
    return count


def _share(seed: str) -> float:
    """A number from 0 to 1 that the seed decides.

    >>> 0 <= _share("a/1") < 1
    True
    """
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") / 2**32
