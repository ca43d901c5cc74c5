"""The Job that publishes: it exports from the newest or best checkpoint, uploads, and verifies what is there."""

from finetune_api.finetunejob import FineTuneJob
from finetune_api.pod_checks import job_json
from finetune_operator import keys
from finetune_operator.resources import pods, volumes
from finetune_operator.resources.batch_job import batch_job
from finetune_operator.resources.digests import publication_digest
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.settings import Settings


def publication_job(run_digest: str, job: FineTuneJob, owner: Owner, settings: Settings) -> Manifest:
    """The publication's Job. The frozen run of that digest says what was trained; `job`, which may have changed since, where it goes."""
    parts = pods.PodParts(
        stage=keys.PUBLICATION,
        container=keys.MAIN_CONTAINER,
        image=pods.cpu_pod_image(job, settings),
        command=keys.PUBLISH_COMMAND,
        settings=job.spec.cpu_pods,
        environment=pods.common_environment(owner) | {keys.RUN_ENV: f"{keys.RUN_FOLDER}/{keys.RUN_FILE}"},
        defaults={},
        resources=pods.resources(job.spec.cpu_pods.resources, pods.CPU_POD_REQUESTS),
        volumes=(
            *volumes.scratch(),
            volumes.job_file(),
            volumes.run_file(keys.run_name(owner.name, run_digest)),
            *volumes.publication_secrets(job),
            *volumes.users(job.spec.cpu_pods),
        ),
        service_account=pods.cpu_pod_service_account(job),
        annotations={keys.JOB_SPEC_ANNOTATION: job_json(job, settings.contract)},
        affinity=pods.affinity(job.spec.cpu_pods),
        pull_secrets=pods.cpu_pods_pull(job),
    )
    name = keys.publication_name(owner.name, publication_digest(run_digest, job))
    return batch_job(name, keys.PUBLICATION, pods.pod_template(parts, owner, settings), owner, job.spec.cpu_pods)
