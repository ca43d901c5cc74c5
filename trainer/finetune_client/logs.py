"""Logs of a job's pods: which container tells what.

The driver's log carries every step and what ranks print; KubeRay's submitter prints it. Preparation, evaluation and publication have one
container each.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from finetune_api.errors import InvalidCluster
from finetune_api.keys import EVALUATION, MAIN_CONTAINER, PREPARATION, PUBLICATION, STAGE_LABEL, SUBMITTER_CONTAINER, TRAINING

Stage: TypeAlias = Literal["preparation", "training", "evaluation", "publication"]
STAGES: Final[tuple[Stage, ...]] = (PREPARATION, TRAINING, EVALUATION, PUBLICATION)

Json = dict[str, Any]

# Written by Kubernetes on the pods of a Job; KubeRay's submitter is one, named after its RayJob.
_JOB_NAME_LABEL: Final = "batch.kubernetes.io/job-name"


class LogGone(InvalidCluster):
    """No pod is left that tells of a stage; what it said is in the job's storage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSource:
    """A container that says something, and whether it does already."""

    pod: str
    container: str
    has_begun: bool


def newest_source(pods: Sequence[Json], stage: Stage, *, owner: str | None = None) -> LogSource | None:
    """The container that tells of a stage: its newest pod's. `owner`: only of that Job's or RayJob's."""
    container = SUBMITTER_CONTAINER if stage == TRAINING else MAIN_CONTAINER
    found = [
        pod
        for pod in pods
        if _labels(pod).get(STAGE_LABEL) == stage
        and owner in (None, _labels(pod).get(_JOB_NAME_LABEL))
        and any(each["name"] == container for each in pod["spec"]["containers"])
    ]
    if not found:
        return None
    newest = max(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
    states = [each.get("state") or {} for each in newest.get("status", {}).get("containerStatuses") or () if each["name"] == container]
    begun = any("running" in state or "terminated" in state for state in states)
    return LogSource(pod=newest["metadata"]["name"], container=container, has_begun=begun)


def _labels(pod: Json) -> dict[str, str]:
    return pod["metadata"].get("labels") or {}


def lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Whole lines of a stream; the last one may lack its end.

    >>> list(lines([b"a\\nb", b"c\\n", b"d"]))
    ['a', 'bc', 'd']
    """
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", errors="replace")
    if rest:
        yield rest.decode("utf-8", errors="replace")
