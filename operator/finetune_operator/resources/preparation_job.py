"""The Job that prepares: it checks what would fail hours later, resolves revisions, and tokenises into the job's storage."""

from finetune_api.finetunejob import FineTuneJob
from finetune_api.pod_checks import job_json
from finetune_operator import keys
from finetune_operator.resources import pods, volumes
from finetune_operator.resources.batch_job import batch_job
from finetune_operator.resources.digests import preparation_digest
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.settings import Settings


def preparation_job(job: FineTuneJob, owner: Owner, settings: Settings) -> Manifest:
    """The preparation's Job. Its pod has the job as a file and no token of the API server."""
    parts = pods.PodParts(
        stage=keys.PREPARATION,
        container=keys.MAIN_CONTAINER,
        image=pods.cpu_pod_image(job, settings),
        command=keys.CHECK_AND_PREPARE_COMMAND if job.spec.evaluation.has_stage else keys.PREPARE_COMMAND,
        settings=job.spec.cpu_pods,
        environment=pods.common_environment(owner),
        defaults={},
        resources=pods.resources(job.spec.cpu_pods.resources, pods.CPU_POD_REQUESTS),
        volumes=(*volumes.scratch(), volumes.job_file(), *volumes.preparation_secrets(job), *volumes.users(job.spec.cpu_pods)),
        service_account=pods.cpu_pod_service_account(job),
        annotations={keys.JOB_SPEC_ANNOTATION: job_json(job)},
        affinity=pods.affinity(job.spec.cpu_pods),
        pull_secrets=pods.cpu_pods_pull(job),
        # It tries the sandbox, before any GPU, where a task is going to need it.
        seccomp_profile=settings.sandbox_profile if job.spec.evaluation.has_stage else None,
    )
    name = keys.preparation_name(owner.name, preparation_digest(job))
    return batch_job(name, keys.PREPARATION, pods.pod_template(parts, owner, settings), owner, job.spec.cpu_pods)
