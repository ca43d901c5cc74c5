"""What kind of failure ended an attempt: one word by which it is charged, waited for and remedied. Pure.

In: an attempt's outcome and reason, which tell who ended it and with which error. Out: its class; None where nothing failed.
"""

from typing import Final

from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, FailureClass

_BY_OUTCOME: Final = {
    AttemptOutcome.PREEMPTED: FailureClass.PREEMPTION,
    AttemptOutcome.NODE_LOST: FailureClass.PREEMPTION,
    AttemptOutcome.DELETED: FailureClass.PREEMPTION,
    AttemptOutcome.NOT_STARTED: FailureClass.START,
    AttemptOutcome.HUNG: FailureClass.HANG,
    AttemptOutcome.INVALID_INPUT: FailureClass.USER_ERROR,
}
_BY_REASON: Final[dict[str, FailureClass]] = {
    Reason.NO_PROGRESS: FailureClass.HANG,
    Reason.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    Reason.NON_FINITE_LOSS: FailureClass.NON_FINITE_LOSS,
    Reason.STORAGE_FAILED: FailureClass.STORAGE,
}


def failure_class(outcome: AttemptOutcome | str | None, reason: str | None) -> FailureClass | None:
    """The class of an attempt that ended so; None for one that runs, finished or was stopped by us, and for an outcome of a newer operator.

    >>> str(failure_class(AttemptOutcome.FAILED, "StorageFailed")), str(failure_class(AttemptOutcome.FAILED, "Unexpected"))
    ('Storage', 'Unknown')
    """
    if outcome == AttemptOutcome.FAILED:
        return _BY_REASON.get(reason or "", FailureClass.UNKNOWN)
    return next((found for known, found in _BY_OUTCOME.items() if known == outcome), None)
