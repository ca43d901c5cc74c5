"""The preparation pod of a job whose trained model is evaluated: what the evaluation would be refused for is refused before training."""

from finetune_api.pod_result import PodResult
from finetune_assistant.job_evaluation.checks import check_before_preparation
from finetune_trainer.pods import prepare
from finetune_trainer.pods.pod import Pod
from finetune_trainer.reporting.events import Notice


def checked_and_prepared(pod: Pod) -> PodResult:
    """As the trainer prepares, once the evaluation has been looked at."""
    job = pod.job()
    local = pod.local(job)
    check_before_preparation(job, secrets=local.secrets, notice=lambda text: local.sink.record(Notice(message=text)))
    return prepare.prepared(pod)


def main() -> int:
    """`python -m finetune_assistant.pods prepare`."""
    return prepare.main(checked_and_prepared)
