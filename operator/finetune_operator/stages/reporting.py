"""How a driver will report: the FineTuneReport, and the head's right to it. Pure.

They are made while the job is prepared, so that a right which the operator can't grant is told early, and an attempt begins with its
RayJob alone. The report comes last: with it, the others are known to be there.
"""

from finetune_operator.observation import Observed
from finetune_operator.resources.access import role, role_binding, service_account
from finetune_operator.resources.pods import head_service_account
from finetune_operator.resources.report import report
from finetune_operator.stages.decision import Action, Create
from finetune_operator.stages.planning import job_of


def reporting(observed: Observed, *, again: bool = False) -> tuple[Action, ...]:
    """What of it isn't known to be there for whoever the head runs as; all of it `again`, for somebody may have deleted some."""
    job, owner = job_of(observed), observed.owner
    known = observed.report.spec.service_account if observed.report else None
    if known == head_service_account(job, owner) and not again:
        return ()
    return (
        Create(manifest=service_account(owner)),
        Create(manifest=role(owner)),
        Create(manifest=role_binding(job, owner)),
        *(() if known == head_service_account(job, owner) else (Create(manifest=report(job, owner), update=("spec",)),)),
    )
