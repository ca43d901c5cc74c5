"""The Job that evaluates: it measures the trained model and its base, asks a judge, and leaves all figures in the job's storage."""

from finetune_api.finetunejob import FineTuneJob
from finetune_api.merged_pods import evaluation_pod
from finetune_api.pod_checks import job_json
from finetune_operator import keys
from finetune_operator.resources import pods, volumes
from finetune_operator.resources.batch_job import batch_job
from finetune_operator.resources.digests import evaluation_job_digest
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.settings import Settings


def evaluation_job(identity: str, run_digest: str, job: FineTuneJob, owner: Owner, settings: Settings) -> Manifest:
    """The evaluation's Job. The frozen run of that identity and digest says what was trained; `job`, which may have changed since, what is
    measured, and where.
    """
    user = evaluation_pod(job.spec)
    cache = {keys.MODEL_CACHE_ENV: keys.MODEL_CACHE_FOLDER} if job.spec.model.cache else {}
    parts = pods.PodParts(
        stage=keys.EVALUATION,
        container=keys.MAIN_CONTAINER,
        image=pods.image_of(user, job, settings),
        command=keys.EVALUATE_COMMAND,
        settings=user,
        environment=pods.common_environment(owner) | {keys.RUN_ENV: f"{keys.RUN_FOLDER}/{keys.RUN_FILE}"} | cache,
        defaults={},
        resources=pods.resources(pods.with_gpus(user.resources, job.spec.workers.gpu, user.gpus), pods.CPU_POD_REQUESTS),
        volumes=(
            *volumes.scratch(),
            volumes.job_file(),
            volumes.run_file(keys.run_name(owner.name, run_digest)),
            *volumes.model_cache(job),
            *volumes.evaluation_secrets(job),
            *volumes.users(user),
        ),
        service_account=pods.account_of(user, job),
        annotations={keys.JOB_SPEC_ANNOTATION: job_json(job, settings.contract)},
        affinity=pods.affinity(user),
        pull_secrets=pods.pull_of(user, job),
        seccomp_profile=settings.sandbox_profile,
    )
    name = keys.evaluation_name(owner.name, evaluation_job_digest(identity, job))
    return batch_job(name, keys.EVALUATION, pods.pod_template(parts, owner, settings), owner, user)
