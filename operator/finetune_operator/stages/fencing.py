"""The fence around a job's pods, where the operator was told of one: made before the first pod, and brought up to date before each later
attempt, since somebody may have deleted it, or the chart's values may have changed. Pure.
"""

from finetune_operator.resources.network_policy import network_policy
from finetune_operator.resources.owner import Owner
from finetune_operator.settings import Settings
from finetune_operator.stages.decision import Action, Create


def fencing(owner: Owner, settings: Settings) -> tuple[Action, ...]:
    """What makes it."""
    rules = settings.job_network_policy
    return (Create(manifest=network_policy(owner, rules), update=("spec",)),) if rules else ()
