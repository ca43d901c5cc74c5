"""What is kept of a failed attempt beside its message: who ended and how, and the last lines of a traceback. Pure.

In: the driver's report, and the pods as they are when the attempt ends. Out: an entry of the status, or None where nothing is known.
What a report says is untrusted input; its schema bounds it.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from finetune_api.bounded_text import shortened
from finetune_api.report import FineTuneReportStatus
from finetune_api.status import LONGEST_WORD, AttemptOutcome, EvidenceStatus
from finetune_operator import keys
from finetune_operator.pods import Ended, Pod

# The ranks' pods first: of a head or a submitter that failed, they are the cause more often than not.
_CONTAINERS: Final = (keys.WORKER_CONTAINER, keys.HEAD_CONTAINER, keys.SUBMITTER_CONTAINER)
_FINE: Final = (AttemptOutcome.FINISHED, AttemptOutcome.STOPPED)


def evidence(outcome: AttemptOutcome, report: FineTuneReportStatus | None, pods: Sequence[Pod]) -> EvidenceStatus | None:
    """What is known of an attempt that ended so. `pods`: of its RayCluster, and its submitters."""
    if outcome in _FINE:
        return None
    pod, end = next(_ends(pods), (None, None))
    lines = list(report.last_lines or []) if report is not None else []
    if not lines and end is not None and end.result is not None:
        lines = list(end.result.last_lines or [])
    if pod is None and not lines:
        return None
    return EvidenceStatus(
        pod=pod.name if pod else None,
        node=pod.node if pod else None,
        exit_code=end.exit_code if end and end.exit_code > 0 else None,  # some runtimes have codes below 0
        pod_reason=shortened(end.reason, LONGEST_WORD) or None if end else None,
        last_lines=lines or None,
    )


def _ends(pods: Sequence[Pod]) -> Iterator[tuple[Pod, Ended]]:
    """Pods whose container ended with a failure."""
    for container in _CONTAINERS:
        for pod in pods:
            found = pod.crash(container) if pod.container(container) is not None else None
            if found is not None and found.exit_code != 0:
                yield pod, found
