"""Jobs and cluster objects for the operator's tests: small and valid, so that a case shows only what matters to it.

`finetunejob(...)` and what takes a job are the contract's values; what begins with `raw_` is JSON as the API server gives it.
Keys of the spec are camelCase, as in YAML: `finetunejob(workers={"nodes": 2})`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune_api.finetunejob import FineTuneJob, ModelShape
from finetune_api.jobfile import parse_job
from finetune_api.keys import API_VERSION, KIND
from finetune_api.plan import plan
from finetune_api.pod_result import PodResult, PreparationResult, PublicationResult
from finetune_api.training_run import DataShape, SplitShape, TrainingRun, Vocabulary, run_identity
from finetune_operator import keys
from finetune_operator.pods import Pod, read_pod
from finetune_operator.resources.owner import Owner
from finetune_operator.settings import Settings

Json = dict[str, Any]

NAME = "starchat"
NAMESPACE = "ml"
UID = "6f0c4e5e-0000-4000-8000-000000000001"
CREATED = "2026-11-23T10:00:00Z"

SHAPE = ModelShape(
    architecture="LlamaForCausalLM",
    layers=2,
    hidden_size=64,
    intermediate_size=128,
    attention_heads=4,
    key_value_heads=4,
    head_size=16,
    vocabulary_size=512,
    positions=2048,
    parameters=200_000,
)


# ---- the contract's values


def finetunejob(name: str = NAME, *, namespace: str = NAMESPACE, **spec: Any) -> FineTuneJob:
    """A job for two nodes of eight GPUs, with storage and one Secret for it; `spec` is merged into it, level by level."""
    return parse_job(
        {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "namespace": namespace}, "spec": spec_mapping(**spec)}
    )


def spec_mapping(**spec: Any) -> Json:
    """That job's spec as YAML has it."""
    base = {
        "model": {"name": "org/model"},
        "dataset": {"sources": [{"path": "org/data"}]},
        "training": {"epochs": 1, "globalBatchSize": 256},
        "workers": {"nodes": 2, "gpusPerNode": 8},
        "checkpoints": {"storage": "s3://bucket/starchat", "credentialsSecret": {"name": "s3"}},
    }
    return _merged(base, spec)


def owner(name: str = NAME, *, namespace: str = NAMESPACE, uid: str = UID) -> Owner:
    """The same job as the owner of objects."""
    return Owner(name=name, namespace=namespace, uid=uid)


def settings(**changes: Any) -> Settings:
    """Settings of an operator whose trainer image is `trainer:1`."""
    return replace(Settings(trainer_image="registry.example/trainer:1"), **changes)


def data_shape(*, rows: int = 2560) -> DataShape:
    """Prepared data that gives ten steps an epoch."""
    split = SplitShape(
        dialogues=rows, segments=rows, tokens=rows * 1000, supervised_tokens=rows * 500, rows=rows, squared_lengths=rows * 10**6
    )
    return DataShape(fingerprint="f" * 64, train=split)


def training_run(job: FineTuneJob | None = None, *, rows: int = 2560) -> TrainingRun:
    """The job's frozen run."""
    job, data = job or finetunejob(), data_shape(rows=rows)
    return TrainingRun(
        job=job,
        identity=run_identity(job),
        model_revision="a" * 40,
        model_shape=SHAPE,
        vocabulary=Vocabulary(size=516),
        data=data,
        plan=plan(job, SHAPE, data),
    )


def prepared(*, rows: int = 2560) -> PodResult:
    """What a preparation pod says when it is done."""
    result = PreparationResult(model_revision="a" * 40, model_shape=SHAPE, vocabulary=Vocabulary(size=516), data=data_shape(rows=rows))
    return PodResult(outcome="Done", preparation=result)


def published(repository: str = "org/starchat", *, revision: str = "b" * 40, step: int = 10) -> PodResult:
    """What a publication pod says when it is done."""
    return PodResult(outcome="Done", publication=PublicationResult(repository=repository, revision=revision, step=step))


def failed(reason: str = "InvalidData", message: str = "row 3 of org/data has no messages", *, permanent: bool = True) -> PodResult:
    """What a pod says when it failed."""
    return PodResult(outcome="Failed", reason=reason, message=message, permanent=permanent)


# ---- objects as the API server gives them


def raw_job(
    name: str = NAME,
    *,
    namespace: str = NAMESPACE,
    uid: str = UID,
    generation: int = 1,
    status: Mapping[str, Any] | None = None,
    created: str = CREATED,
    deleted: str | None = None,
    **spec: Any,
) -> Json:
    """The FineTuneJob object; `deleted` is its deletionTimestamp."""
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "generation": generation,
        "resourceVersion": "1",
        "creationTimestamp": created,
    } | ({"deletionTimestamp": deleted} if deleted else {})
    status_part = {"status": dict(status)} if status is not None else {}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec_mapping(**spec)} | status_part


def stored(
    manifest: Mapping[str, Any], *, uid: str = "00000000-0000-4000-8000-00000000000a", created: str = CREATED, **status: Any
) -> Json:
    """A manifest of ours as it comes back from the API server, with that status."""
    metadata = dict(manifest["metadata"]) | {"uid": uid, "resourceVersion": "1", "creationTimestamp": created}
    return dict(manifest) | {"metadata": metadata} | ({"status": status} if status else {})


def stranger(manifest: Mapping[str, Any]) -> Json:
    """An object of the same kind and name that isn't ours."""
    found = stored(manifest)
    found["metadata"] = {key: value for key, value in found["metadata"].items() if key not in ("ownerReferences", "labels")}
    return found


def kubernetes_job_status(outcome: str = "Running", *, reason: str = "BackoffLimitExceeded", message: str = "") -> Json:
    """Status of a batch/v1 Job that is `Running`, `Complete` or `Failed`."""
    if outcome == "Running":
        return {"active": 1, "ready": 1, "startTime": CREATED}
    condition = {"type": outcome, "status": "True", "lastTransitionTime": CREATED, "lastProbeTime": CREATED}
    if outcome == "Complete":
        return {"succeeded": 1, "startTime": CREATED, "completionTime": CREATED, "conditions": [condition]}
    return {"failed": 1, "startTime": CREATED, "conditions": [condition | {"reason": reason, "message": message}]}


def rayjob_status(
    deployment: str = "Running", *, job: str = "RUNNING", cluster: str = f"{NAME}-1-abcde", reason: str = "", message: str = ""
) -> Json:
    """Status of a RayJob: `jobDeploymentStatus`, `jobStatus` and the RayCluster's name."""
    given = {"jobDeploymentStatus": deployment, "jobStatus": job, "rayClusterName": cluster, "reason": reason, "message": message}
    return {key: value for key, value in given.items() if value} | {"startTime": CREATED}


def raw_pod(
    name: str = f"{NAME}-pod",
    *,
    stage: str = keys.PREPARATION,
    job_name: str = NAME,
    namespace: str = NAMESPACE,
    phase: str = "Running",
    container: str = keys.MAIN_CONTAINER,
    node: str | None = "node-1",
    labels: Mapping[str, str] | None = None,
    controller: Mapping[str, Any] | None = None,
    exit_code: int | None = None,
    result: PodResult | str | None = None,
    reason: str | None = None,
    message: str | None = None,
    unschedulable: str | None = None,
    bound: str | None = None,
    conditions: tuple[Mapping[str, Any], ...] = (),
    deleted: str | None = None,
    image: str = "",
    image_id: str = "",
) -> Json:
    """A pod of a job, bound to its node at `bound`. `exit_code` makes its container terminated, with `result` as its message."""
    metadata: Json = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-of-{name}",
        "creationTimestamp": CREATED,
        "labels": {keys.JOB_LABEL: job_name, keys.STAGE_LABEL: stage, keys.MANAGED_BY_LABEL: keys.MANAGED_BY} | dict(labels or {}),
    }
    if controller:
        found = {"kind": controller["kind"], "name": controller["metadata"]["name"], "uid": controller["metadata"]["uid"]}
        metadata["ownerReferences"] = [found | {"apiVersion": controller["apiVersion"], "controller": True}]
    if deleted:
        metadata["deletionTimestamp"] = deleted
    status: Json = {"phase": phase, "conditions": [dict(condition) for condition in conditions]}
    if unschedulable is not None:
        status["phase"] = "Pending"
        status["conditions"].append({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unschedulable})
    if bound is not None:
        status["conditions"].append({"type": "PodScheduled", "status": "True", "lastTransitionTime": bound})
    status |= {name: value for name, value in (("reason", reason), ("message", message)) if value}
    ran = {"image": image, "imageID": image_id}
    status["containerStatuses"] = [{"name": container, "state": _state(status["phase"], exit_code, result), **ran}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": container}]} | ({"nodeName": node} if node and unschedulable is None else {}),
        "status": status,
    }


def pod(name: str = f"{NAME}-pod", **state: Any) -> Pod:
    """The same as the operator reads it."""
    return read_pod(raw_pod(name, **state))


def ray_cluster(name: str) -> Json:
    """What KubeRay's pods of that RayCluster have for a controller."""
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": name, "uid": f"uid-of-{name}"}}


def _state(phase: str, exit_code: int | None, result: PodResult | str | None) -> Json:
    if exit_code is None:
        return {"waiting": {"reason": "ContainerCreating"}} if phase == "Pending" else {"running": {"startedAt": CREATED}}
    text = result.to_termination_message() if isinstance(result, PodResult) else result
    return {
        "terminated": {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed", "message": text or "", "finishedAt": CREATED}
    }


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> Json:
    result = dict(base)
    for name, value in change.items():
        old = result.get(name)
        result[name] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
