"""Evaluation: what the driver measured on held-out data, and after training a Job of one pod that measures what the spec asks for.

The Job's name carries a digest of what is measured, of which training, and of what its pod runs with. Figures that the status has are
measured no more, whatever becomes of the Job. An evaluation that fails for good fails the job if `publish.gate` needs it; otherwise
the publication goes on without it (docs/decisions/0022).
"""

from dataclasses import replace
from typing import Final

from finetune_api.conditions import ConditionType, find
from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.finetunejob import FineTuneJob
from finetune_api.merged_pods import evaluation_pod
from finetune_api.pod_result import EvaluationResult
from finetune_api.reasons import Reason
from finetune_api.status import EvaluatedTask, EvaluationStatus, FineTuneJobStatus, figures_text
from finetune_api.times import seconds_between
from finetune_operator import keys
from finetune_operator.observation import RAY_CLUSTER, Json, Observed, last_attempt
from finetune_operator.pods import Pod
from finetune_operator.resources.digests import evaluation_job_digest
from finetune_operator.resources.evaluation_job import evaluation_job
from finetune_operator.settings import Settings
from finetune_operator.stages import budget
from finetune_operator.stages.attempts import evaluation_status
from finetune_operator.stages.decision import Action, Create, Delete, StageDecision, set_condition, sooner
from finetune_operator.stages.freezing import is_refrozen, pinned
from finetune_operator.stages.planning import job_of
from finetune_operator.stages.pod_job import ABOUT_TO_START, PodJob, goes_on, pod_job, unfinished

# Where its pod's settings are.
_SETTINGS: Final = "spec.evaluation.pod"
# How long a pod of training may be late with its end, as when its node is lost, until nobody waits for its GPUs any more.
_OVERDUE_SECONDS: Final = 60.0
# Nothing announces that a pod is overdue, or that last words won't come.
_AGAIN_SECONDS: Final = 30.0
_WITHOUT_FIGURES: Final = "; the job goes on without its figures: `finetune evaluate` measures the published model"
_OLD_IMAGE: Final = "images from before this stage end so at once: name another in spec.evaluation.pod.image"


def evaluation(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Make the Job, wait for it, or read what it measured."""
    job, run = job_of(observed), status.run
    if not job.spec.evaluation.has_stage:
        return StageDecision(status=evaluated(observed, status), done=True, actions=_deleted(observed, keys.EVALUATION))
    if run is None:
        return _waits(observed, status, Reason.WAITING, "the frozen run is awaited")
    digest, name = evaluation_digest(run.identity, job), keys.evaluation_name(observed.owner.name, evaluation_job_digest(run.identity, job))
    known = status.evaluation
    if known is not None and known.digest == digest and not _judge_goes_on(job, known):
        return StageDecision(status=evaluated(observed, status), done=True, actions=_going_on(observed))
    if known is not None and known.failed_job == name:
        return _failed_before(observed, status).after(*_but_its_log(observed, name))
    status = _without_failure(status)
    # What is published tells of the evaluation, so that nothing may be published before it.
    former = (*_deleted(observed, keys.EVALUATION, name), *_deleted(observed, keys.PUBLICATION))
    if observed.run_problem:
        waits = _waits(observed, status, Reason.INVALID_TRAINING_RUN, observed.run_problem)
        return replace(waits, stalled=(Reason.INVALID_TRAINING_RUN, observed.run_problem))
    if is_refrozen(observed, status) or not observed.run_text:
        return _waits(observed, status, Reason.WAITING, "the frozen run is awaited", *former)
    found = observed.batch_job(name)
    if job.spec.suspend and (found is None or goes_on(observed, found)):
        return _waits(observed, status, Reason.SUSPENDED, "the job is suspended", *former, *unfinished(observed))
    if (spent := _used_up(observed, status)) is not None and (found is None or goes_on(observed, found)):
        return _failed(observed, status, name, spent).after(*former)
    if found is None:
        if (other := _measures_yet(observed)) is not None:
            waits = _waits(observed, status, Reason.EVALUATING, f"pod {other} of a former evaluation ends first", *former)
            return replace(waits, requeue_after_seconds=_AGAIN_SECONDS)
        if (holder := _holds_gpus(observed, job)) is not None:
            waits = _waits(observed, status, Reason.EVALUATING, f"pod {holder} of training gives its GPUs back first", *former)
            return replace(waits, requeue_after_seconds=_AGAIN_SECONDS)
        create = Create(manifest=evaluation_job(run.identity, run.digest, job, observed.owner, pinned(status, settings)))
        return _waits(observed, status, Reason.EVALUATING, ABOUT_TO_START, *former, create)
    if "deletionTimestamp" in found["metadata"]:
        return _waits(observed, status, Reason.EVALUATING, f"Job {name} is being deleted, and made again", *former)
    read = pod_job(observed, found, active=Reason.EVALUATING, failed=Reason.EVALUATION_FAILED, settings=_SETTINGS)
    if read.state == "lost":
        return _waits(observed, status, read.reason, read.message, *former, _delete(found))
    return _judged(observed, status, found, read, digest).after(*former)


def _judged(observed: Observed, status: FineTuneJobStatus, job: Json, read: PodJob, digest: str) -> StageDecision:
    """What the Job came to."""
    if read.state == "active":
        waits = _waits(observed, status, read.reason, read.message)
        left = budget.seconds_left(observed, status)
        return replace(waits, stalled=read.stalled, requeue_after_seconds=sooner(_AGAIN_SECONDS, left))
    result = read.result.evaluation if read.result else None
    if read.state == "done" and result is not None and (wrong := _wrong(observed, result, digest)) is None:
        status = status.model_copy(update={"evaluation": _measured(result)})
        return StageDecision(status=evaluated(observed, status), done=True)
    if read.state == "done":
        told = wrong if result is not None else "the pod said that it is done, and not what it measured"
        read = replace(read, reason=Reason.RESULT_UNREADABLE, message=f"{told}; is its image of another version?")
    elif read.reason == Reason.EVALUATION_FAILED:
        read = replace(read, message=f"{read.message}; {_OLD_IMAGE}")
    return _failed(observed, status, job["metadata"]["name"], read)


def _judge_goes_on(job: FineTuneJob, known: EvaluationStatus) -> bool:
    """Whether a judge whose tokens had ended is asked on, for a gate that came since. With more tokens that is another Job."""
    wanted, judge = job.spec.publish.gate.judge_win_rate, known.judge
    return wanted is not None and judge is not None and bool(judge.partial) and judge.low < wanted.min


def _used_up(observed: Observed, status: FineTuneJobStatus) -> PodJob | None:
    """The failure of an evaluation on GPUs, where no GPU hours are left for it."""
    if evaluation_pod(job_of(observed).spec).gpus == 0 or (spent := budget.used_up(observed, status)) is None:
        return None
    reason, told = spent
    return PodJob(state="overdue", reason=reason, message=told)


def _wrong(observed: Observed, result: EvaluationResult, digest: str) -> str | None:
    """Why the result can't be that of this evaluation: a pod may say anything."""
    if result.digest != digest:
        return "the pod measured something else"
    if (result.judge is None) != (job_of(observed).spec.evaluation.judge is None):
        return "the pod said nothing of the judge" if result.judge is None else "the pod told of a judge that nobody asked for"
    return None


def _measured(result: EvaluationResult) -> EvaluationStatus:
    loss = result.loss
    found = evaluation_status(result.step, loss) if loss is not None else EvaluationStatus(step=result.step)
    # A list keeps keys that it doesn't know, and the API server may refuse what a pod gave under them.
    tasks = [EvaluatedTask(**{name: getattr(task, name) for name in EvaluatedTask.model_fields}) for task in result.tasks]
    told = {"digest": result.digest, "tasks": tasks or None, "judge": result.judge, "results": result.results}
    return found.model_copy(update=told)


def _failed(observed: Observed, status: FineTuneJobStatus, name: str, read: PodJob) -> StageDecision:
    """The job's failure, where its gate needs the figures; else they are missing in what is published.

    It is recorded before anything follows from it: a Job that would go on is deleted with the next look, and then nothing else tells.
    """
    reason = read.reason or Reason.EVALUATION_FAILED
    if _gate_needs_it(observed):
        return _missed(observed, status, reason, read.message)
    message = f"{read.message}{_WITHOUT_FIGURES}"
    last = last_attempt(status)
    known = status.evaluation or EvaluationStatus(step=(last.last_step if last is not None else None) or 0)
    # Figures of another evaluation are none of this one.
    of_training = EvaluationStatus(step=known.step, loss=known.loss, perplexity=known.perplexity, failed_job=name)
    status = status.model_copy(update={"evaluation": of_training})
    return StageDecision(status=set_condition(observed, status, ConditionType.EVALUATED, "False", reason, message))


def _without_failure(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status that knows of no failure of another evaluation than the wanted one."""
    if status.evaluation is None or status.evaluation.failed_job is None:
        return status
    return status.model_copy(update={"evaluation": status.evaluation.model_copy(update={"failed_job": None})})


def _failed_before(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    """What a failure that is recorded amounts to under the spec that is looked at: its gate may have come since."""
    told = find(status.conditions, ConditionType.EVALUATED)
    reason, message = (told.reason, told.message) if told is not None and told.status == "False" else (Reason.EVALUATION_FAILED, "")
    if _gate_needs_it(observed):
        return _missed(observed, status, reason, message.removesuffix(_WITHOUT_FIGURES))
    return StageDecision(status=set_condition(observed, status, ConditionType.EVALUATED, "False", reason, message), done=True)


def _gate_needs_it(observed: Observed) -> bool:
    return job_of(observed).spec.publish.gate.judge_win_rate is not None


def _missed(observed: Observed, status: FineTuneJobStatus, reason: str, message: str) -> StageDecision:
    """The end of a job whose gate needs figures that there are not."""
    told = "spec.publish.gate.judgeWinRate needs it: mend what it says, or remove the gate; then raise spec.retry"
    message = f"{message or 'the evaluation failed'}; {told}"
    status = set_condition(observed, status, ConditionType.EVALUATED, "False", reason, message)
    return StageDecision(status=status, failed=(reason, message))


def _holds_gpus(observed: Observed, job: FineTuneJob) -> str | None:
    """A pod of training that may hold GPUs yet, where the evaluation wants some."""
    if evaluation_pod(job.spec).gpus == 0:
        return None
    return next((pod.name for pod in observed.pods_of_stage(keys.TRAINING) if _is_of_training(pod) and not _is_over(observed, pod)), None)


def _measures_yet(observed: Observed) -> str | None:
    """A pod of another evaluation, whose Job is deleted: two that write one folder of the storage would mix what they found."""
    return next((pod.name for pod in observed.pods_of_stage(keys.EVALUATION) if not _is_over(observed, pod)), None)


def _is_of_training(pod: Pod) -> bool:
    return pod.controller is not None and pod.controller.kind == RAY_CLUSTER


def _is_over(observed: Observed, pod: Pod) -> bool:
    late = seconds_between(pod.deletion_time, observed.now)
    return pod.has_ended or (late is not None and late >= _OVERDUE_SECONDS)


def _deleted(observed: Observed, stage: str, wanted: str | None = None) -> tuple[Action, ...]:
    """Deletions of the stage's Jobs, but of the wanted one."""
    return tuple(_delete(job) for job in observed.batch_jobs(stage) if job["metadata"]["name"] != wanted and not _is_deleted(job))


def _going_on(observed: Observed) -> tuple[Action, ...]:
    """Deletions of evaluations that nobody wants any more. One that is over keeps its log."""
    return tuple(_delete(job) for job in observed.batch_jobs(keys.EVALUATION) if not _is_deleted(job) and goes_on(observed, job))


def _but_its_log(observed: Observed, failed: str) -> tuple[Action, ...]:
    """Deletions of all evaluations, but of the failed one where it has ended by itself."""
    ended = [job["metadata"]["name"] for job in observed.batch_jobs(keys.EVALUATION) if not goes_on(observed, job)]
    return _deleted(observed, keys.EVALUATION, failed if failed in ended else None)


def _delete(job: Json) -> Delete:
    return Delete(kind="Job", name=job["metadata"]["name"], uid=job["metadata"]["uid"])


def _is_deleted(job: Json) -> bool:
    return "deletionTimestamp" in job["metadata"]


def _waits(observed: Observed, status: FineTuneJobStatus, reason: str, message: str, *actions: Action) -> StageDecision:
    status = set_condition(observed, status, ConditionType.EVALUATED, "False", reason, message)
    return StageDecision(status=status, actions=actions)


def evaluated(observed: Observed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status with the condition of an evaluation that is done, or that nothing follows."""
    spec, found = job_of(observed).spec, status.evaluation
    if found is not None and (spec.dataset.evaluation is not None or spec.evaluation.has_stage):
        return set_condition(observed, status, ConditionType.EVALUATED, "True", Reason.EVALUATED, figures_text(found))
    if spec.dataset.evaluation is None:
        told = "nothing is held out (spec.dataset.evaluation is absent)"
        return set_condition(observed, status, ConditionType.EVALUATED, "True", Reason.NOT_REQUESTED, told)
    told = "no evaluation was reported; its figures are in the job's storage"
    return set_condition(observed, status, ConditionType.EVALUATED, "Unknown", Reason.WAITING, told)
