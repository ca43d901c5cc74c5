"""`workers.minNodes`: fewer nodes where not all are to be had, and all of them again. Pure.

In: how an attempt ended, or the smaller one that runs. Out: what the status remembers for the next attempt, or that the running one should
commit a checkpoint and make room. A size is an attempt's, frozen in its run; a RayJob is never applied again. Fewer nodes are taken when
an attempt didn't start in time because some of its workers found no node. That nodes are free again nobody tells: the operator may not
read nodes, and a scheduler speaks of pods alone. So all of workers.nodes are tried, seldom, and given up soon.
"""

from datetime import datetime, timedelta
from typing import Final

from finetune_api.elastic import divide
from finetune_api.finetunejob import FineTuneJob
from finetune_api.status import AdjustedStatus, AttemptOutcome, AttemptStatus, FineTuneJobStatus
from finetune_api.times import is_ahead, moment, timestamp
from finetune_api.training_run import CONTRACT_VERSION
from finetune_operator import keys
from finetune_operator.failures import Ending
from finetune_operator.observation import HEAD, Observed
from finetune_operator.stages.planning import job_of
from finetune_operator.stages.sizing import attempted, is_smaller, without_nodes

# All of workers.nodes are tried this long after fewer were taken, and twice as long after each try in vain: what a try costs, two
# starts and the wait between them, stays a small share of the time.
_FIRST_TRY_SECONDS: Final = 3600.0
_LONGEST_SECONDS: Final = 24 * 3600.0
# How long a try may take to start, where workers.startDeadlineSeconds is longer: a job that could train waits for it.
TRY_START_SECONDS: Final = 300
# After these there is no next attempt.
_LAST: Final = (AttemptOutcome.FINISHED, AttemptOutcome.INVALID_INPUT)


def is_try(job: FineTuneJob, status: FineTuneJobStatus) -> bool:
    """Whether the attempt that starts is the first with all of workers.nodes after smaller ones."""
    return status.adjusted is not None and status.adjusted.growing and is_smaller(job, status)


def growth_due(observed: Observed, status: FineTuneJobStatus) -> bool:
    """Whether the smaller attempt that runs should make room: it is time, and it has committed a checkpoint since.

    Its driver commits another as it stops, so that no step is done again; the one before is for a driver that doesn't stop in time.
    """
    attempt, due = status.attempts[-1], _due(job_of(observed), status)
    latest = status.checkpoints.latest if status.checkpoints else None
    if due is None or attempt.running_time is None or latest is None or latest.step <= (attempt.first_step or 0):
        return False
    committed = moment(latest.committed_at)
    return due <= observed.now and committed is not None and committed >= due


def growth_seconds(observed: Observed, status: FineTuneJobStatus) -> float | None:
    """Seconds until it is time; None where it is, or never will be."""
    due = _due(job_of(observed), status)
    return (due - observed.now).total_seconds() if due is not None and due > observed.now else None


def _due(job: FineTuneJob, status: FineTuneJobStatus) -> datetime | None:
    """When all of workers.nodes may be tried; None where attempts have them, or try them."""
    adjusted = status.adjusted
    since = moment(adjusted.resized_time) if adjusted is not None else None
    if adjusted is None or since is None or adjusted.growing or not is_smaller(job, status):
        return None
    return since + timedelta(seconds=min(_FIRST_TRY_SECONDS * 2.0 ** min(adjusted.failed_growths, 10), _LONGEST_SECONDS))


def grown(observed: Observed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status of an attempt that trains: of one with all of workers.nodes nothing is remembered of fewer."""
    adjusted, pods = status.adjusted, status.attempts[-1].worker_pods or 0
    # A job that can't be read is followed as its run says it, which has no more nodes than the attempt.
    if adjusted is None or adjusted.nodes is None or not adjusted.nodes < pods == job_of(observed).spec.workers.nodes:
        return status
    return status.model_copy(update={"adjusted": without_nodes(adjusted)})


def resized(observed: Observed, status: FineTuneJobStatus, attempt: AttemptStatus, ending: Ending) -> tuple[AdjustedStatus | None, str]:
    """What the status remembers of nodes after an attempt that ended so, and what is told of it; empty where nothing changes."""
    job, adjusted = job_of(observed), status.adjusted or AdjustedStatus()
    former = status.run is not None and status.run.contract_version != CONTRACT_VERSION  # only its image can read it, and nobody write it
    if not job.spec.workers.is_elastic or former or ending.outcome in _LAST:
        return status.adjusted, ""
    if ending.outcome is not AttemptOutcome.NOT_STARTED:
        due, was_set_back = _due(job, status), is_ahead(adjusted.resized_time, observed.now)
        if due is None or (due > observed.now and not was_set_back):
            return status.adjusted, ""
        told = f"the next attempt tries all {job.spec.workers.nodes} nodes again"
        return adjusted.model_copy(update={"growing": True, "message": told}), told
    trying = is_try(job, status)
    nodes = _fewer(observed, status, attempt, known=adjusted.nodes if trying else None)
    if nodes is None:
        return status.adjusted, ""
    told = f"attempts run with {nodes} of {job.spec.workers.nodes} nodes until all are to be had, and with the same steps"
    changes = {
        "nodes": nodes,
        "resized_time": timestamp(observed.now),
        "failed_growths": adjusted.failed_growths + 1 if trying else adjusted.failed_growths,
        "growing": False,
        "message": f"attempt {attempt.number} did not start: {told}",
    }
    return adjusted.model_copy(update=changes), told


def _fewer(observed: Observed, status: FineTuneJobStatus, attempt: AttemptStatus, *, known: int | None) -> int | None:
    """How many nodes to go on with: as many as the attempt's workers had found, or the next fewer that divide a step. None where all had
    found one, so that something else keeps them, and where they are the fewest. `known`: what went before a try.
    """
    job = attempted(job_of(observed), status)
    fewest, ran = job.spec.workers.min_nodes or 1, attempt.worker_pods or job.spec.workers.nodes
    placed = _placed(observed, attempt)
    if placed >= ran or ran <= fewest:
        return known
    most, rows = min(max(placed, known or fewest), ran - 1), status.plan.global_batch_size if status.plan else None
    # Planning has looked at the fewest; more of them need no more memory each.
    return next((nodes for nodes in range(most, fewest, -1) if rows is not None and divide(job, nodes, rows)), fewest)


def _placed(observed: Observed, attempt: AttemptStatus) -> int:
    """Workers of the attempt that have a node."""
    cluster = attempt.ray_job.cluster if attempt.ray_job else None
    pods = observed.pods_of_cluster(cluster) if cluster else []
    return sum(pod.node is not None and pod.labels.get(keys.NODE_TYPE_LABEL) != HEAD for pod in pods)
