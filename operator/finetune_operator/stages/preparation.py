"""Preparation: a Job of one CPU pod that checks and tokenises, once for a spec.

Out: the Facts, from the pod's termination message or from the run that is frozen already. Its Job's name carries the digest of
all that it reads, so that another spec is another Job; the former one is deleted while no attempt exists.
"""

from dataclasses import replace
from typing import Final

from finetune_api.conditions import ConditionType
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus, PreparationStatus
from finetune_api.times import timestamp
from finetune_operator import keys
from finetune_operator.observation import Json, Observed
from finetune_operator.resources.digests import preparation_digest
from finetune_operator.resources.preparation_job import preparation_job
from finetune_operator.settings import Settings
from finetune_operator.stages.decision import Action, Create, Delete, StageDecision, set_condition
from finetune_operator.stages.facts import Facts, facts_of, facts_of_run
from finetune_operator.stages.fencing import fencing
from finetune_operator.stages.planning import job_of
from finetune_operator.stages.pod_job import ABOUT_TO_START, PodJob, goes_on, pod_job, unfinished
from finetune_operator.stages.reporting import reporting

_OLD_IMAGE: Final = (
    "images from before there were evaluations end so at once: name another in spec.workers.image or spec.cpuPods.image, "
    "or ask for no tasks, judge and samples"
)


def prepared(observed: Observed, status: FineTuneJobStatus) -> tuple[Facts, str | None] | None:
    """What preparation found out, and the image that it ran, once it is done."""
    if (facts := facts_of_run(observed, status)) is not None:
        return facts, None
    found = observed.batch_job(status.preparation.job) if status.preparation is not None else None
    read = _read(observed, found) if found is not None else None
    result = read.result.preparation if read is not None and read.result is not None else None
    return (facts_of(result), read.image_that_ran) if result is not None and read is not None and read.state == "done" else None


def preparation(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Make the Job, wait for it, or read what it found."""
    if (facts := facts_of_run(observed, status)) is not None:
        return StageDecision(status=_prepared(observed, status, facts), done=True)
    if status.attempt and (observed.has_former_run or observed.run_problem):
        return StageDecision(status=status, done=True)
    job = job_of(observed)
    digest = preparation_digest(job)
    name = keys.preparation_name(observed.owner.name, digest)
    status = _entered(status, digest, name)
    former = _former(observed, status, name)
    found = observed.batch_job(name)
    if job.spec.suspend and (found is None or goes_on(observed, found)):
        return _waits(observed, status, (*former, *unfinished(observed)), Reason.SUSPENDED, "the job is suspended")
    status = _begun(observed, status, found)
    if found is None:
        create = Create(manifest=preparation_job(job, observed.owner, settings))
        return _waits(observed, status, (*former, *fencing(observed.owner, settings), create), Reason.PREPARING, ABOUT_TO_START)
    if "deletionTimestamp" in found["metadata"]:
        return _waits(observed, status, former, Reason.PREPARING, f"Job {name} is being deleted, and made again")
    read = _read(observed, found)
    delete = Delete(kind="Job", name=name, uid=found["metadata"]["uid"])
    if read.state == "lost":
        return _waits(observed, status, (*former, delete), read.reason, read.message)
    return _judged(observed, status, read, (*former, delete) if read.goes_on else former)


def _read(observed: Observed, job: Json) -> PodJob:
    return pod_job(observed, job, active=Reason.PREPARING, failed=Reason.PREPARATION_FAILED)


def _judged(observed: Observed, status: FineTuneJobStatus, read: PodJob, former: tuple[Action, ...]) -> StageDecision:
    """What the Job came to."""
    if read.state == "active":
        # Not before its pod is there, which is what a new job waits for.
        ahead = reporting(observed) if observed.pods_of_stage(keys.PREPARATION) else ()
        # Its last words may still be on their way, and nothing announces that they are not.
        waits = _waits(observed, status, (*former, *ahead), read.reason, read.message)
        return replace(waits, stalled=read.stalled, requeue_after_seconds=30.0)
    result = read.result.preparation if read.result else None
    if read.state == "failed" or result is None:
        reason = read.reason or Reason.RESULT_UNREADABLE
        message = read.message or "the pod said that it is done, and not what it found; is spec.workers.image of another version?"
        if reason == Reason.PREPARATION_FAILED and job_of(observed).spec.evaluation.has_stage:
            message = f"{message}; {_OLD_IMAGE}"
        status = set_condition(observed, status, ConditionType.PREPARED, "False", reason, message)
        return StageDecision(status=status, actions=former, failed=(reason, message))
    facts = facts_of(result)
    return StageDecision(status=_prepared(observed, _counted(status, facts), facts), actions=former, done=True)


def _waits(observed: Observed, status: FineTuneJobStatus, actions: tuple[Action, ...], reason: str, message: str) -> StageDecision:
    status = set_condition(observed, status, ConditionType.PREPARED, "False", reason, message)
    return StageDecision(status=status, actions=actions)


def _former(observed: Observed, status: FineTuneJobStatus, wanted: str) -> tuple[Action, ...]:
    """Deletions of preparations that nobody wants any more."""
    if status.attempt:
        return ()
    return tuple(
        Delete(kind="Job", name=job["metadata"]["name"], uid=job["metadata"]["uid"])
        for job in observed.batch_jobs(keys.PREPARATION)
        if job["metadata"]["name"] != wanted and "deletionTimestamp" not in job["metadata"]
    )


def _begun(observed: Observed, status: FineTuneJobStatus, job: Json | None) -> FineTuneJobStatus:
    """The status with when the first preparation was made."""
    made = job["metadata"].get("creationTimestamp") if job else None
    return status.model_copy(update={"active_time": status.active_time or made or timestamp(observed.now)})


def _entered(status: FineTuneJobStatus, digest: str, name: str) -> FineTuneJobStatus:
    """The status with the wanted preparation; what a former one found goes."""
    if status.preparation is not None and status.preparation.digest == digest:
        return status
    return status.model_copy(update={"preparation": PreparationStatus(digest=digest, job=name)})


def _counted(status: FineTuneJobStatus, facts: Facts) -> FineTuneJobStatus:
    """The status with the data's numbers."""
    assert status.preparation is not None
    train, evaluation = facts.data.train, facts.data.evaluation
    counted = status.preparation.model_copy(
        update={
            "data_fingerprint": facts.data.fingerprint,
            "dialogues": train.dialogues,
            "tokens": train.tokens,
            "supervised_tokens": train.supervised_tokens,
            "rows": train.rows,
            "evaluation_rows": evaluation.rows if evaluation else None,
        }
    )
    return status.model_copy(update={"preparation": counted})


def _prepared(observed: Observed, status: FineTuneJobStatus, facts: Facts) -> FineTuneJobStatus:
    train = facts.data.train
    told = (
        f"{train.dialogues:,} dialogues, {train.tokens:,} tokens ({train.supervised_tokens:,} supervised) in {train.rows:,} rows; "
        f"model revision {facts.model_revision}"
    )
    return set_condition(observed, status, ConditionType.PREPARED, "True", Reason.PREPARED, told)
