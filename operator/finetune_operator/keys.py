"""Names, labels, annotations, environment variables and paths that cross a process, each with who writes it and who reads it.

The operator writes all of them. Here is no logic beyond putting a name together.
"""

import hashlib
import re
from typing import Final

from finetune_api import pod_checks
from finetune_api.keys import EVALUATION as EVALUATION
from finetune_api.keys import GROUP as GROUP
from finetune_api.keys import JOB_LABEL as JOB_LABEL
from finetune_api.keys import MAIN_CONTAINER as MAIN_CONTAINER
from finetune_api.keys import PREPARATION as PREPARATION
from finetune_api.keys import PUBLICATION as PUBLICATION
from finetune_api.keys import SECRETS_FOLDER_ENV
from finetune_api.keys import STAGE_LABEL as STAGE_LABEL
from finetune_api.keys import SUBMITTER_CONTAINER as SUBMITTER_CONTAINER
from finetune_api.keys import TRAINING as TRAINING

# ---- labels and annotations

# Beside the job's label and the stage's (finetune_api.keys), on every object and pod of a job.
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "finetune-operator"

# The job as JSON, on pods; the downward API gives it to them as a file.
JOB_SPEC_ANNOTATION: Final = f"{GROUP}/job-spec"
# Read by Kueue, which then suspends and admits the RayJob.
QUEUE_LABEL: Final = pod_checks.QUEUE_LABEL
# Written by Kueue on its Workloads: the uid of what they stand for.
WORKLOAD_OF_LABEL: Final = "kueue.x-k8s.io/job-uid"
# Written by KubeRay on its pods, read by our anti-affinity and by the operator.
NODE_TYPE_LABEL: Final = "ray.io/node-type"
# Read by KubeRay 1.6: a head that is lost ends the attempt instead of coming back without its driver.
NO_HEAD_RESTART_ANNOTATION: Final = "ray.io/disable-provisioned-head-restart"

# ---- names of containers; KubeRay takes a pod's first container as Ray's

HEAD_CONTAINER: Final = "ray-head"
WORKER_CONTAINER: Final = "ray-worker"
WORKER_GROUP: Final = "workers"

# ---- what pods run; constant, so that nothing of a spec ever reaches a shell

_PODS: Final = ("python", "-m", "finetune_trainer.pods")
PREPARE_COMMAND: Final = (*_PODS, "prepare")
TRAIN_COMMAND: Final = (*_PODS, "train")
PUBLISH_COMMAND: Final = (*_PODS, "publish")
# Of the package above the trainer, for what it measures with; images from before the stage haven't got them.
EVALUATE_COMMAND: Final = ("python", "-m", "finetune_assistant.pods", "evaluate")
CHECK_AND_PREPARE_COMMAND: Final = ("python", "-m", "finetune_assistant.pods", "prepare")
BEFORE_STOP_COMMAND: Final = (*_PODS, "before-stop")

# ---- environment variables, read by finetune_trainer.pods unless said otherwise

JOB_ENV: Final = "FINETUNE_JOB"
NAMESPACE_ENV: Final = "FINETUNE_NAMESPACE"
RUN_ENV: Final = "FINETUNE_RUN"
REPORT_ENV: Final = "FINETUNE_REPORT"
SECRETS_ENV: Final = SECRETS_FOLDER_ENV
SCRATCH_ENV: Final = "FINETUNE_SCRATCH"
# Read by the driver: failures that the job may have and still go on. With it, workers start again in place.
FAILURES_LEFT_ENV: Final = "FINETUNE_FAILURES_LEFT"
STOP_SECONDS_ENV: Final = "FINETUNE_STOP_SECONDS"
# Read by Ray: how long a driver has after SIGTERM when its job is stopped.
RAY_STOP_SECONDS_ENV: Final = "RAY_JOB_STOP_WAIT_TIME_S"
MODEL_CACHE_ENV: Final = "FINETUNE_MODEL_CACHE"
# Read by OpenMP, and so by torch on CPUs; Ray would set 1.
OMP_THREADS_ENV: Final = "OMP_NUM_THREADS"

# ---- volumes and paths in pods

# Names of our volumes begin so, and a user's may not; neither may a user mount anything over these paths (finetune_api.pod_checks).
VOLUME_PREFIX: Final = pod_checks.OUR_VOLUMES

CONFIGURATION_FOLDER: Final = "/etc/finetune"
JOB_FOLDER: Final = f"{CONFIGURATION_FOLDER}/job"
JOB_FILE: Final = "job.json"
RUN_FOLDER: Final = f"{CONFIGURATION_FOLDER}/run"
RUN_FILE: Final = "run.json"
SECRETS_FOLDER: Final = f"{CONFIGURATION_FOLDER}/secrets"
TOKEN_FOLDER: Final = f"{CONFIGURATION_FOLDER}/token"
SCRATCH_FOLDER: Final = "/var/lib/finetune"
MODEL_CACHE_FOLDER: Final = f"{SCRATCH_FOLDER}/model-cache"
TEMPORARY_FOLDER: Final = "/tmp"
SHARED_MEMORY: Final = "/dev/shm"

# ---- names of objects; a job's name has at most 40 characters, so that all of these fit 63, and a RayJob's its 47

_DIGEST_CHARACTERS: Final = 8


def preparation_name(job_name: str, preparation_digest: str) -> str:
    """The preparation's Job.

    >>> preparation_name("starchat", "0123456789abcdef")
    'starchat-prepare-01234567'
    """
    return f"{job_name}-prepare-{preparation_digest[:_DIGEST_CHARACTERS]}"


def run_name(job_name: str, run_digest: str) -> str:
    """The frozen run's ConfigMap."""
    return f"{job_name}-run-{run_digest[:_DIGEST_CHARACTERS]}"


def rayjob_name(job_name: str, attempt: int) -> str:
    """The RayJob that this attempt created."""
    return f"{job_name}-{attempt}"


def publication_name(job_name: str, publication_digest: str) -> str:
    """The publication's Job."""
    return f"{job_name}-publish-{publication_digest[:_DIGEST_CHARACTERS]}"


def evaluation_name(job_name: str, job_digest: str) -> str:
    """The evaluation's Job."""
    return f"{job_name}-evaluate-{job_digest[:_DIGEST_CHARACTERS]}"


def is_job_name(job_name: str, name: str) -> bool:
    """Whether a preparation, an evaluation or a publication of the FineTuneJob has that name.

    >>> is_job_name("starchat", "starchat-prepare-01234567"), is_job_name("starchat", "starchat-prepare-again")
    (True, False)
    """
    return re.fullmatch(f"{re.escape(job_name)}-(prepare|evaluate|publish)-[0-9a-f]{{{_DIGEST_CHARACTERS}}}", name) is not None


def report_name(job_name: str) -> str:
    """The FineTuneReport."""
    return job_name


def access_name(job_name: str) -> str:
    """The ServiceAccount and the Role of the head."""
    return f"{job_name}-finetune"


def binding_name(job_name: str, account: str) -> str:
    """The RoleBinding for a service account: another account has another one, so that nobody needs the right to change a RoleBinding.

    >>> binding_name("starchat", "starchat-finetune"), binding_name("starchat", "irsa")
    ('starchat-finetune', 'starchat-finetune-9fc6b982')
    """
    own = access_name(job_name)
    return own if account == own else f"{own}-{hashlib.sha256(account.encode()).hexdigest()[:_DIGEST_CHARACTERS]}"
