"""The RayJob that trains: a head without GPUs that runs the driver, and one worker pod a node with all of its GPUs.

In: the job as it is now (pods, Secrets), the frozen run's digest, the attempt's number. Out: a manifest that is created once and never
applied again, because Kueue edits it. `entrypoint` and `rayStartParams` end up in a shell unquoted: they hold constants
and whole numbers, never text of the spec. What the driver needs is in files.
"""

from collections.abc import Sequence
from math import ceil
from typing import Final

from finetune_api.checks import device
from finetune_api.finetunejob import FineTuneJob
from finetune_api.pod_checks import job_json
from finetune_api.quantity import number
from finetune_operator import keys
from finetune_operator.resources import pods, submitter, volumes
from finetune_operator.resources.avoidance import avoiding
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.settings import Settings

# Ray's object store holds the run and events, not data; by default Ray would reserve 30 % of the memory.
OBJECT_STORE_BYTES: Final = 512 * 2**20

# Read by Ray and Ray Train 2.60, in the driver and in its workers.
RAY_ENVIRONMENT: Final = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # The run at the dashboard's /api/train/v2/runs/v1; docs/dashboard.md.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    # Workers stay in the image's folder.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Our own preStop asks for the checkpoint; Ray's watcher would cost a process that imports all of Ray Train.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # KubeRay starts the driver when every pod is ready; what takes longer than this has lost a pod since.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}

# A worker has this long after its checkpoint to end, the head this long: it outlives the workers.
_WORKER_MARGIN_SECONDS: Final = 30
_HEAD_MARGIN_SECONDS: Final = 60
# KubeRay's deadlines are for when there is no operator: where there is one, it acts first and says more.
_KUBERAY_MARGIN_SECONDS: Final = 120
# KubeRay counts them in 32 bits.
_MOST_SECONDS: Final = 2**31 - 1


def rayjob(
    job: FineTuneJob,
    run_digest: str,
    attempt: int,
    owner: Owner,
    settings: Settings,
    *,
    avoided: Sequence[str] = (),
    seconds_left: float | None = None,
    failures_left: int = 0,
) -> Manifest:
    """The RayJob of an attempt. `avoided`: nodes on which others failed. `seconds_left`: how long it may last; None is for ever.

    `failures_left`: how many starts of its workers in place may be charged.
    """
    queue = job.spec.workers.queue_name
    metadata = owner.metadata(keys.rayjob_name(owner.name, attempt), keys.TRAINING)
    metadata["labels"] = pods.labels(job.spec.workers, metadata["labels"]) | ({keys.QUEUE_LABEL: queue} if queue else {})
    metadata["annotations"] = {keys.NO_HEAD_RESTART_ANNOTATION: "true"}
    spec: Manifest = {
        "submissionMode": submitter.SUBMISSION_MODE,
        "submitterPodTemplate": submitter.submitter_pod(job, owner, settings),
        "submitterConfig": {"backoffLimit": submitter.RETRIES},
        "entrypoint": " ".join(keys.TRAIN_COMMAND),
        # Attempts are counted and spaced by us; KubeRay's own retry erases why one failed.
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": True,
        **_deadlines(job, seconds_left),
        "rayClusterSpec": {
            "rayVersion": settings.ray_version,
            "authOptions": {"mode": "token"},
            "enableInTreeAutoscaling": False,
            "headGroupSpec": _head(job, run_digest, owner, settings, avoided, failures_left),
            "workerGroupSpecs": [_workers(job, owner, settings, avoided)],
        },
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _deadlines(job: FineTuneJob, seconds_left: float | None) -> Manifest:
    """What KubeRay ends the RayJob after, both counted from its admission: without all of its pods, and in all."""
    start = job.spec.workers.start_deadline_seconds + _KUBERAY_MARGIN_SECONDS
    deadlines = {"preRunningDeadlineSeconds": min(start, _MOST_SECONDS)}
    if seconds_left is not None:
        deadlines["activeDeadlineSeconds"] = min(max(ceil(seconds_left), 1), _MOST_SECONDS)
    return deadlines


# ---- the head


def _head(job: FineTuneJob, run_digest: str, owner: Owner, settings: Settings, avoided: Sequence[str], failures_left: int) -> Manifest:
    """The head group: it offers Ray nothing, so that no rank lands there."""
    parts = pods.PodParts(
        stage=keys.TRAINING,
        container=keys.HEAD_CONTAINER,
        image=pods.cpu_pod_image(job, settings),
        command=None,
        settings=pods.beside_workers(job),
        environment=_environment(owner, settings)
        | {
            keys.RUN_ENV: f"{keys.RUN_FOLDER}/{keys.RUN_FILE}",
            keys.REPORT_ENV: keys.report_name(owner.name),
            keys.RAY_STOP_SECONDS_ENV: str(settings.stop_seconds),
            keys.FAILURES_LEFT_ENV: str(failures_left),
        },
        defaults={},
        resources=pods.resources(job.spec.cpu_pods.resources, pods.CPU_POD_REQUESTS),
        volumes=_head_volumes(job, run_digest, owner),
        service_account=pods.head_service_account(job, owner),
        annotations={keys.JOB_SPEC_ANNOTATION: job_json(job, settings.contract)},
        affinity=avoiding(pods.affinity(job.spec.cpu_pods), avoided),
        pull_secrets=pods.cpu_pods_pull(job),
        grace_seconds=settings.stop_seconds + _HEAD_MARGIN_SECONDS,
        checkpoint_before_stop=True,
    )
    return {
        "rayStartParams": {"dashboard-host": "0.0.0.0", **_ray_resources(cpus=0, gpus=0)},
        "template": pods.pod_template(parts, owner, settings),
    }


def _head_volumes(job: FineTuneJob, run_digest: str, owner: Owner) -> tuple[volumes.Mounted, ...]:
    return (
        *volumes.scratch(),
        volumes.job_file(),
        volumes.run_file(keys.run_name(owner.name, run_digest)),
        volumes.token(),
        *volumes.training_secrets(job),
        *volumes.users(job.spec.cpu_pods),
    )


# ---- the workers


def ranks_per_node(job: FineTuneJob) -> int:
    """Ray Train workers of each pod."""
    return job.spec.workers.world_size // job.spec.workers.nodes


def _workers(job: FineTuneJob, owner: Owner, settings: Settings, avoided: Sequence[str]) -> Manifest:
    """The worker group: all or nothing, as many pods as nodes."""
    workers = job.spec.workers
    parts = pods.PodParts(
        stage=keys.TRAINING,
        container=keys.WORKER_CONTAINER,
        image=pods.worker_image(job, settings),
        command=None,
        settings=workers,
        environment=_environment(owner, settings) | _cache(job),
        defaults=_threads(job),
        resources=_worker_resources(job),
        volumes=(*volumes.scratch(), *volumes.model_cache(job), *volumes.training_secrets(job), *volumes.users(workers)),
        service_account=workers.service_account_name or keys.access_name(owner.name),
        annotations={},
        affinity=avoiding(_one_pod_a_node(job, owner), avoided),
        pull_secrets=pods.workers_pull(job),
        grace_seconds=settings.stop_seconds + _WORKER_MARGIN_SECONDS,
        checkpoint_before_stop=True,
    )
    template = pods.pod_template(parts, owner, settings)
    # The shell of KubeRay's init container, as process 1 of a container, would ignore SIGTERM: a worker that waits for its head would keep
    # its GPUs for the whole grace period.
    template["spec"]["shareProcessNamespace"] = True
    if workers.topology_spread_constraints:
        template["spec"]["topologySpreadConstraints"] = [pods.as_written(constraint) for constraint in workers.topology_spread_constraints]
    ranks = ranks_per_node(job)
    return {
        "groupName": keys.WORKER_GROUP,
        "replicas": workers.nodes,
        "minReplicas": workers.nodes,
        "maxReplicas": workers.nodes,
        # One CPU for each rank, however many processors there are: so a pod takes exactly its ranks, with GPUs and without.
        "rayStartParams": _ray_resources(cpus=ranks, gpus=ranks if device(job.spec) == "gpu" else 0),
        "template": template,
    }


def _cache(job: FineTuneJob) -> dict[str, str]:
    """Where the weights are kept, if anywhere."""
    return {keys.MODEL_CACHE_ENV: keys.MODEL_CACHE_FOLDER} if job.spec.model.cache else {}


def _worker_resources(job: FineTuneJob) -> Manifest:
    """What the user asks for; on GPUs the number of them is gpusPerNode's."""
    workers = job.spec.workers
    if device(job.spec) != "gpu":
        return pods.resources(workers.resources)
    return pods.resources(pods.with_gpus(workers.resources, workers.gpu, workers.gpus_per_node))


def _threads(job: FineTuneJob) -> dict[str, str]:
    """Processors of the pod, shared by its ranks; nothing when it isn't said how many it gets."""
    resources = job.spec.workers.resources
    cpus = resources.limits.get("cpu") or resources.requests.get("cpu")
    return {keys.OMP_THREADS_ENV: str(max(1, int(number(cpus)) // ranks_per_node(job)))} if cpus else {}


def _one_pod_a_node(job: FineTuneJob, owner: Owner) -> Manifest | None:
    """The user's affinity, and for several nodes a rule that no two workers of the job share one."""
    affinity = pods.affinity(job.spec.workers) or {}
    if job.spec.workers.nodes == 1:
        return affinity or None
    term = {
        "labelSelector": {"matchLabels": {keys.JOB_LABEL: owner.name, keys.NODE_TYPE_LABEL: "worker"}},
        "topologyKey": "kubernetes.io/hostname",
    }
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    anti = affinity.get("podAntiAffinity") or {}
    return {**affinity, "podAntiAffinity": {**anti, required: [*(anti.get(required) or []), term]}}


# ---- both


def _environment(owner: Owner, settings: Settings) -> dict[str, str]:
    return pods.common_environment(owner) | RAY_ENVIRONMENT | {keys.STOP_SECONDS_ENV: str(settings.stop_seconds)}


def _ray_resources(*, cpus: int, gpus: int) -> dict[str, str]:
    """Parameters of `ray start`; KubeRay would take missing ones from the container's limits."""
    return {"num-cpus": str(cpus), "num-gpus": str(gpus), "object-store-memory": str(OBJECT_STORE_BYTES)}
