"""Freezing: job, facts and final plan become one TrainingRun in an immutable ConfigMap, which every attempt executes.

It is made again only while nothing runs: before the first attempt when the spec changed, afterwards when something changed
that an attempt or the publication reads and that may change (workers, credentials, retention, evaluation, publish), or when attempts go
on with another size (`sizing`). A newer operator that would plan otherwise doesn't touch it.
"""

import json
from dataclasses import fields
from typing import Any, Final

from finetune_api.conditions import ConditionType
from finetune_api.errors import InvalidSpec
from finetune_api.field_use import use_of
from finetune_api.fields import key
from finetune_api.finetunejob import Evaluation, FineTuneJob, FineTuneJobSpec, Metadata
from finetune_api.pod_checks import inside_pods
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus, RunStatus, plan_status
from finetune_api.training_run import TrainingRun, digest_of, run_identity
from finetune_operator import keys
from finetune_operator.observation import Observed, is_running
from finetune_operator.resources.run_config_map import run_config_map
from finetune_operator.settings import RunSettings, Settings
from finetune_operator.stages.decision import Create, StageDecision, set_condition
from finetune_operator.stages.facts import Facts
from finetune_operator.stages.planning import checked_plan, job_of, refused, summary
from finetune_operator.stages.preparation import prepared
from finetune_operator.stages.sizing import attempted

# Sections that attempts don't read; and what they don't read of the evaluation, which is measured after them.
_UNREAD: Final = tuple(name for name in FineTuneJobSpec.model_fields if not use_of(key(name, FineTuneJobSpec)).run)
_EVALUATION_UNREAD: Final = {
    name: field.get_default(call_default_factory=True)
    for name, field in Evaluation.model_fields.items()
    if not use_of(f"evaluation.{key(name, Evaluation)}").run
}


def freezing(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """The run that the next attempt or the publication executes: the one that there is, or a new one.

    Without facts there is a run that this operator can't read, and its image can.
    """
    if observed.has_former_run and status.attempt and not is_running(status):
        return _former(observed, status)
    found = None if is_running(status) else prepared(observed, status)
    if found is None or _is_current(observed, status, found[0]):
        return StageDecision(status=status, done=True)
    facts, image_that_ran = found
    job = executed(attempted(job_of(observed), status))
    try:
        final = checked_plan(observed, status, facts)
    except InvalidSpec as error:
        return refused(observed, status, str(error))
    run = TrainingRun(
        job=job,
        identity=run_identity(job),
        model_revision=facts.model_revision,
        model_shape=facts.model_shape,
        vocabulary=facts.vocabulary,
        data=facts.data,
        plan=final,
    )
    if conflict := _conflict(status, run):
        return StageDecision(status=status, stalled=(Reason.RUN_CONFLICT, conflict))
    # An image that has begun reads what it knows.
    text = run.to_json(readable_with=observed.run_text if status.attempt else "")
    digest = digest_of(text)
    status = set_condition(observed, status, ConditionType.PLANNED, "True", Reason.PLANNED, summary(final, settings))
    recorded = _recorded(status, run, digest, job_of(observed), image_that_ran, settings)
    told = plan_status(final, job.spec, facts.model_shape, facts.data, final=True, prices=settings.prices)
    status = status.model_copy(update={"run": recorded, "plan": told})
    return StageDecision(status=status, actions=(Create(manifest=run_config_map(text, observed.owner)),), done=True)


def _former(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    """A run of another contract is executed as it is, by as many ranks as it says."""
    planned = json.loads(observed.run_text).get("plan", {}).get("worldSize")
    wanted = job_of(observed).spec.workers.world_size
    if planned in (None, wanted):
        return StageDecision(status=status, done=True)
    message = (
        f"spec.workers makes {wanted} ranks, and the run that an earlier version of the operator froze is for {planned}; "
        f"set workers that make {planned}, or delete the job, and apply it under another name and storage"
    )
    return StageDecision(status=status, stalled=(Reason.RUN_CONFLICT, message))


def is_refrozen(observed: Observed, status: FineTuneJobStatus) -> bool:
    """Whether this very look has frozen another run than the observed one, which the status named until now."""
    former, recorded = observed.status.run, status.run
    return recorded is not None and (former is None or former.digest != recorded.digest)


def pinned(status: FineTuneJobStatus, settings: Settings) -> Settings:
    """The settings for pods of the frozen run: its image, by digest where that is known, and that image's Ray.

    Neither what this operator's own are, nor where the image's tag points by now, changes it.
    """
    run = status.run
    if run is None or run.image is None:
        return settings
    told = {field.name: getattr(settings, field.name) for field in fields(settings)}
    told |= {"trainer_image": run.image, "ray_version": run.ray_version or settings.ray_version}
    return RunSettings(**told, image_that_ran=run.image_that_ran, run_contract=run.contract_version)


def executed(job: FineTuneJob) -> FineTuneJob:
    """The job without what only the operator reads, so that a change of it makes no other run."""
    spec = inside_pods(job).spec
    changes: dict[str, Any] = {name: type(spec).model_fields[name].get_default() for name in _UNREAD}
    changes["workers"] = spec.workers.model_copy(update={"min_nodes": None})
    changes["evaluation"] = spec.evaluation.model_copy(update=_EVALUATION_UNREAD)
    # Without evaluation.judge this gate would make the run no valid job. Publication reads it from the job.
    gate = spec.publish.gate.model_copy(update={"judge_win_rate": None})
    changes["publish"] = spec.publish.model_copy(update={"gate": gate})
    spec = spec.model_copy(update=changes)
    metadata = Metadata(name=job.metadata.name, namespace=job.metadata.namespace)
    return job.model_copy(update={"spec": spec, "metadata": metadata})


def _spec(job: FineTuneJob) -> FineTuneJobSpec:
    return executed(job).spec


def _is_current(observed: Observed, status: FineTuneJobStatus, facts: Facts) -> bool:
    """Whether the run that there is may be executed as it is."""
    if observed.run is None:
        return False
    same_facts = observed.run.data == facts.data and observed.run.model_revision == facts.model_revision
    return same_facts and _spec(observed.run.job) == _spec(attempted(job_of(observed), status))


def _conflict(status: FineTuneJobStatus, run: TrainingRun) -> str | None:
    """Why a run that replaces one that was executed can't: another result would come of it."""
    former = status.run
    if status.attempt == 0 or former is None:
        return None
    pairs = (
        ("model, data, template or training (or how an earlier version made ids of texts)", former.identity, run.identity),
        ("the base model's revision", former.model_revision, run.model_revision),
        ("the prepared data", former.data_fingerprint, run.data.fingerprint),
    )
    changed = [name for name, old, new in pairs if old != new]
    if not changed:
        return None
    return f"{' and '.join(changed)} changed after the first attempt; delete the job, and apply it under another name and storage"


def _recorded(
    status: FineTuneJobStatus, run: TrainingRun, digest: str, job: FineTuneJob, image_that_ran: str | None, settings: Settings
) -> RunStatus:
    """The status' record of it. Once an attempt exists, an operator with another default image changes nothing."""
    former = status.run if status.attempt else None
    assert status.preparation is not None
    image = job.spec.workers.image or (former.image if former and former.image else settings.trainer_image)
    # An image keeps its Ray; what this operator is told holds for images that begin with it.
    known = former.ray_version if former and former.image == image else None
    return RunStatus(
        identity=run.identity,
        digest=digest,
        config_map=keys.run_name(job.metadata.name, digest),
        preparation_digest=former.preparation_digest if former else status.preparation.digest,
        contract_version=run.contract_version,
        image=image,
        ray_version=known or settings.ray_version,
        image_that_ran=image_that_ran or (status.run.image_that_ran if status.run else None),
        model_revision=run.model_revision,
        data_fingerprint=run.data.fingerprint,
    )
