"""The dry run: before a preparation or an attempt costs anything, the API server says what it would refuse of the next attempt. Pure.

Once for each generation of the spec: `Planned` is True of a generation when nothing was refused. docs/decisions/0021-dry-runs.md.
"""

from finetune_api.conditions import ConditionType, find
from finetune_api.status import AttemptOutcome, FineTuneJobStatus
from finetune_operator.observation import KubeRay, Observed, is_running, last_attempt
from finetune_operator.resources.dry_run import alike, asked_about
from finetune_operator.settings import Settings
from finetune_operator.stages.decision import DryRun, StageDecision
from finetune_operator.stages.freezing import pinned
from finetune_operator.stages.planning import job_of


def dry_run(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Ask about the next attempt, if there is to be one and this generation of the spec was not asked about."""
    last = last_attempt(status)
    over = is_running(status) or (last is not None and last.outcome is AttemptOutcome.FINISHED)
    if over or _is_asked(observed) or observed.kuberay is not KubeRay.PRESENT:
        return StageDecision(status=status, done=True)
    job, owner, told = job_of(observed), observed.owner, pinned(status, settings)
    ask = DryRun(manifests=asked_about(job, status.attempt + 1, owner, told), alike=alike(job, owner, told))
    return StageDecision(status=status, actions=(ask,), done=True)


def _is_asked(observed: Observed) -> bool:
    planned = find(observed.status.conditions, ConditionType.PLANNED)
    return planned is not None and planned.status == "True" and planned.observed_generation == observed.generation
