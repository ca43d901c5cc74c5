"""Preparation: a Job of one CPU pod that checks and tokenises, once for a spec.

Out: the Facts, from the pod's termination message or from the run that is frozen already. Its Job's name carries the digest of
all that it reads, so that another spec is another Job; the former one is deleted while no attempt exists.
"""

from dataclasses import dataclass, replace

from finetune_api.conditions import ConditionType
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus, PreparationStatus
from finetune_operator import keys
from finetune_operator.observation import Observed
from finetune_operator.resources.digests import preparation_digest
from finetune_operator.resources.preparation_job import preparation_job
from finetune_operator.settings import Settings
from finetune_operator.stages.decision import Action, Create, Delete, StageDecision, observe
from finetune_operator.stages.planning import Facts, job_of
from finetune_operator.stages.pod_job import ABOUT_TO_START, PodJob, pod_job
from finetune_operator.stages.reporting import reporting


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """The decision, and what preparation found out once it is done."""

    decision: StageDecision
    facts: Facts | None = None
    image_that_ran: str | None = None


def facts_of_run(observed: Observed, status: FineTuneJobStatus) -> Facts | None:
    """What the frozen run says, if it was made from this preparation, or if it is fixed because an attempt exists."""
    run, recorded = observed.run, status.run
    if run is None or recorded is None or observed.job is None:
        return None
    if status.attempt == 0 and recorded.preparation_digest != preparation_digest(observed.job):
        return None
    return Facts(model_revision=run.model_revision, model_shape=run.model_shape, vocabulary=run.vocabulary, data=run.data)


def preparation(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> Preparation:
    """Make the Job, wait for it, or read what it found."""
    if (facts := facts_of_run(observed, status)) is not None:
        return Preparation(decision=StageDecision(status=_prepared(observed, status, facts), done=True), facts=facts)
    if observed.run_problem and status.attempt:
        # Written under another contract: its image can read it, and nothing may be made in its place.
        return Preparation(decision=StageDecision(status=status, done=True))
    job = job_of(observed)
    digest = preparation_digest(job)
    name = keys.preparation_name(observed.owner.name, digest)
    status = _entered(status, digest, name)
    former = _former(observed, status, name)
    found = observed.batch_job(name)
    if found is None and job.spec.suspend:
        return _waits(observed, status, former, Reason.SUSPENDED, "the job is suspended")
    if found is None:
        create = Create(manifest=preparation_job(job, observed.owner, settings))
        return _waits(observed, status, (*former, create), Reason.PREPARING, ABOUT_TO_START)
    if "deletionTimestamp" in found["metadata"]:
        return _waits(observed, status, former, Reason.PREPARING, f"Job {name} is being deleted, and made again")
    read = pod_job(observed, found, active=Reason.PREPARING, failed=Reason.PREPARATION_FAILED)
    delete = Delete(kind="Job", name=name, uid=found["metadata"]["uid"])
    if read.state == "lost":
        return _waits(observed, status, (*former, delete), read.reason, read.message)
    return _judged(observed, status, read, (*former, delete) if read.state == "evicted" else former)


def _judged(observed: Observed, status: FineTuneJobStatus, read: PodJob, former: tuple[Action, ...]) -> Preparation:
    """What the Job came to."""
    if read.state == "active":
        # Not before its pod is there, which is what a new job waits for.
        ahead = reporting(observed) if observed.pods_of(keys.STAGE_LABEL, keys.PREPARATION) else ()
        # Its last words may still be on their way, and nothing announces that they are not.
        waits = _waits(observed, status, (*former, *ahead), read.reason, read.message)
        return replace(waits, decision=replace(waits.decision, requeue_after_seconds=30.0))
    result = read.result.preparation if read.result else None
    if read.state == "failed" or result is None:
        reason = read.reason or Reason.RESULT_UNREADABLE
        message = read.message or "the pod said that it is done, and not what it found; is spec.workers.image of another version?"
        status = observe(observed, status, ConditionType.PREPARED, "False", reason, message)
        return Preparation(decision=StageDecision(status=status, actions=former, failed=(reason, message)))
    facts = Facts(model_revision=result.model_revision, model_shape=result.model_shape, vocabulary=result.vocabulary, data=result.data)
    status = _prepared(observed, _counted(status, facts), facts)
    return Preparation(decision=StageDecision(status=status, actions=former, done=True), facts=facts, image_that_ran=read.image_that_ran)


def _waits(observed: Observed, status: FineTuneJobStatus, actions: tuple[Action, ...], reason: str, message: str) -> Preparation:
    status = observe(observed, status, ConditionType.PREPARED, "False", reason, message)
    return Preparation(decision=StageDecision(status=status, actions=actions))


def _former(observed: Observed, status: FineTuneJobStatus, wanted: str) -> tuple[Action, ...]:
    """Deletions of preparations that nobody wants any more."""
    if status.attempt:
        return ()
    return tuple(
        Delete(kind="Job", name=job["metadata"]["name"], uid=job["metadata"]["uid"])
        for job in observed.batch_jobs(keys.PREPARATION)
        if job["metadata"]["name"] != wanted and "deletionTimestamp" not in job["metadata"]
    )


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
    return observe(observed, status, ConditionType.PREPARED, "True", Reason.PREPARED, told)
