"""Publication: a Job of one CPU pod that exports the model from its checkpoint, sends it, and verifies what is there.

Its name carries a digest of the run and of all that the spec says about publishing, so that a retry or another repository is
another Job, and nothing is trained again.
"""

from dataclasses import replace

from finetune_api.conditions import ConditionType
from finetune_api.reasons import Reason
from finetune_api.status import EvaluationStatus, FineTuneJobStatus, PublicationStatus
from finetune_operator import keys
from finetune_operator.observation import Observed
from finetune_operator.resources.digests import publication_digest
from finetune_operator.resources.publication_job import publication_job
from finetune_operator.settings import Settings
from finetune_operator.stages.attempts import evaluation_status, trained_step
from finetune_operator.stages.decision import Action, Create, Delete, StageDecision, set_condition
from finetune_operator.stages.evaluation import evaluated
from finetune_operator.stages.freezing import is_refrozen, pinned
from finetune_operator.stages.planning import job_of
from finetune_operator.stages.pod_job import ABOUT_TO_START, PodJob, goes_on, pod_job, unfinished


def publication(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Make the Job, wait for it, or read what it published."""
    job = job_of(observed)
    if job.spec.publish.place is None:
        told = f"spec.publish names no place; `finetune export {job.spec.checkpoints.storage}` makes a model of the newest checkpoint"
        status = set_condition(observed, status, ConditionType.PUBLISHED, "True", Reason.NOT_REQUESTED, told)
        return StageDecision(status=status, done=True, actions=_former(observed))
    if observed.run_problem:
        return replace(
            _waits(observed, status, Reason.INVALID_TRAINING_RUN, observed.run_problem),
            stalled=(Reason.INVALID_TRAINING_RUN, observed.run_problem),
        )
    if (refrozen := is_refrozen(observed, status)) or not observed.run_text or status.run is None:
        return _waits(observed, status, Reason.WAITING, "the frozen run is awaited", *(_former(observed) if refrozen else ()))
    if (closed := _gate(observed, status)) is not None:
        return closed.after(*_former(observed))
    digest = publication_digest(status.run.digest, job)
    name = keys.publication_name(observed.owner.name, digest)
    found = observed.batch_job(name)
    former = _former(observed, name)
    if job.spec.suspend and (found is None or goes_on(observed, found)):
        return _waits(observed, status, Reason.SUSPENDED, "the job is suspended", *former, *unfinished(observed))
    if found is None:
        create = Create(manifest=publication_job(status.run.digest, job, observed.owner, pinned(status, settings)))
        return _waits(observed, status, Reason.PUBLISHING, ABOUT_TO_START, *former, create)
    if "deletionTimestamp" in found["metadata"]:
        return _waits(observed, status, Reason.PUBLISHING, f"Job {name} is being deleted, and made again", *former)
    read = pod_job(observed, found, active=Reason.PUBLISHING, failed=Reason.PUBLICATION_FAILED)
    delete = Delete(kind="Job", name=name, uid=found["metadata"]["uid"])
    if read.state == "lost":
        return _waits(observed, status, read.reason, read.message, *former, delete)
    judged = _judged(observed, status, read, digest)
    return judged.after(delete) if read.goes_on else judged


def _judged(observed: Observed, status: FineTuneJobStatus, read: PodJob, digest: str) -> StageDecision:
    """What the Job came to."""
    if read.state == "active":
        return replace(_waits(observed, status, read.reason, read.message), stalled=read.stalled, requeue_after_seconds=30.0)
    result = read.result.publication if read.result else None
    if read.state == "failed" or result is None:
        reason = read.reason or Reason.RESULT_UNREADABLE
        message = read.message or "the pod said that it is done, and not what it published; is the image of another version?"
        status = set_condition(observed, status, ConditionType.PUBLISHED, "False", reason, message)
        return StageDecision(status=status, failed=(reason, message))
    published = PublicationStatus(
        digest=digest,
        repository=result.repository,
        revision=result.revision,
        step=result.step,
        evaluation_loss=result.evaluation_loss,
    )
    status = status.model_copy(update={"publication": published})
    if status.evaluation is None and result.evaluation_loss is not None:
        # It read the checkpoint's evaluation, which the driver may not have been able to report.
        status = evaluated(observed, status.model_copy(update={"evaluation": evaluation_status(result.step, result.evaluation_loss)}))
    told = f"{result.repository} at {result.revision}, step {result.step}"
    return StageDecision(status=set_condition(observed, status, ConditionType.PUBLISHED, "True", Reason.PUBLISHED, told), done=True)


def _waits(observed: Observed, status: FineTuneJobStatus, reason: str, message: str, *actions: Action) -> StageDecision:
    status = set_condition(observed, status, ConditionType.PUBLISHED, "False", reason, message)
    return StageDecision(status=status, actions=actions)


def _gate(observed: Observed, status: FineTuneJobStatus) -> StageDecision | None:
    """The refusal of a model whose figures are known and too bad; the pod judges all other cases."""
    message = _loss_refused(observed, status) or _judge_refused(observed, status)
    if message is None:
        return None
    status = set_condition(observed, status, ConditionType.PUBLISHED, "False", Reason.GATE_CLOSED, message)
    return StageDecision(status=status, failed=(Reason.GATE_CLOSED, message))


def _loss_refused(observed: Observed, status: FineTuneJobStatus) -> str | None:
    """What is told of a published checkpoint whose loss is too high."""
    allowed, found = job_of(observed).spec.publish.gate.evaluation_loss, status.evaluation
    if allowed is None or found is None or found.loss is None or found.loss <= allowed.max or not _is_of_published(observed, status, found):
        return None
    return (
        f"the evaluation loss of step {found.step} is {found.loss:.4f}, and spec.publish.gate.evaluationLoss.max is {allowed.max:g}; "
        "raise the gate and spec.retry to publish all the same"
    )


def _is_of_published(observed: Observed, status: FineTuneJobStatus, found: EvaluationStatus) -> bool:
    """Whether the evaluation is of the checkpoint that is published: the last one's may not have been reported."""
    spec = job_of(observed).spec
    if found.digest is not None and spec.evaluation.has_stage:  # of the stage, which takes that checkpoint
        return True
    run, is_last = observed.run, spec.publish.checkpoint == "last"
    return run is not None and is_last and found.step == trained_step(status, run)


def _judge_refused(observed: Observed, status: FineTuneJobStatus) -> str | None:
    """What is told of a model that its judge doesn't prefer often enough to be sure of it."""
    wanted, judge = job_of(observed).spec.publish.gate.judge_win_rate, status.evaluation.judge if status.evaluation else None
    if wanted is None or judge is None or judge.low >= wanted.min:
        return None
    more = "raise spec.evaluation.judge.maxTokens and spec.retry to have all prompts judged, or " if judge.partial else ""
    return (
        f"the judge's win rate is {judge.win_rate:.3f} over {judge.prompts} prompts, and the lower end of its 95 % interval is "
        f"{judge.low:.3f}, while spec.publish.gate.judgeWinRate.min is {wanted.min:g}; {more}lower the gate and raise spec.retry to "
        "publish all the same"
    )


def _former(observed: Observed, wanted: str | None = None) -> tuple[Action, ...]:
    """Deletions of publications that nobody wants any more: two of them would write to one place."""
    return tuple(
        Delete(kind="Job", name=job["metadata"]["name"], uid=job["metadata"]["uid"])
        for job in observed.batch_jobs(keys.PUBLICATION)
        if job["metadata"]["name"] != wanted and "deletionTimestamp" not in job["metadata"]
    )
