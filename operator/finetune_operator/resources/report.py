"""The FineTuneReport of a job, as it begins: nothing is asked, nothing is reported."""

from finetune_api.finetunejob import FineTuneJob
from finetune_api.keys import API_VERSION
from finetune_api.report import REPORT_KIND
from finetune_operator import keys
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.resources.pods import head_service_account


def report(job: FineTuneJob, owner: Owner) -> Manifest:
    """The report; one for all attempts, because only one runs at a time."""
    return {
        "apiVersion": API_VERSION,
        "kind": REPORT_KIND,
        "metadata": owner.metadata(keys.report_name(owner.name), keys.TRAINING),
        "spec": {"serviceAccount": head_service_account(job, owner)},
    }
