"""Jobs that are submitted, and what a cluster would do with them, played by a script: kubelets, the Job controller and KubeRay.

Everything is written through the API server. What a job of the operator leaves behind is taken from a life in memory, so that
thousands of jobs can be put where the operator would have brought them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks.api_server import ApiServer
from tests.operator import builders
from tests.operator.fakes import Kubelet, World

from finetune_api.keys import API_VERSION, KIND
from finetune_operator import keys, kinds
from finetune_operator.runtime.api import Resource

Json = dict[str, Any]

NAMESPACE = builders.NAMESPACE
TRAINJOBS = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
JOBSETS = Resource("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
RUNTIMES = Resource("trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes", "ClusterTrainingRuntime")
_RUNTIME = "torch-distributed"
# One node of eight GPUs.
_SPEC = {"workers": {"nodes": 1, "gpusPerNode": 8}}


def names(count: int) -> list[str]:
    """
    >>> names(2)
    ['job-00000', 'job-00001']
    """
    return [f"job-{number:05}" for number in range(count)]


# ---- submitting


def submit_finetunejobs(api: ApiServer, wanted: Iterable[str]) -> None:
    spec = builders.spec_mapping(**_SPEC)
    api.each(
        wanted,
        lambda name: api.create(
            kinds.FINETUNEJOBS, NAMESPACE, {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
        ),
    )


def submit_trainjobs(api: ApiServer, wanted: Iterable[str]) -> None:
    """Of Kubeflow Trainer's own runtime for PyTorch: one node of eight GPUs."""
    version = TRAINJOBS.api_version
    container = {"name": "node", "image": "registry.example/trainer:1"}
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    template = {"metadata": {"labels": labels}, "spec": {"template": {"spec": {"containers": [container]}}}}
    runtime = {
        "apiVersion": version,
        "kind": RUNTIMES.kind,
        "metadata": {"name": _RUNTIME, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {"spec": {"replicatedJobs": [{"name": "node", "template": template}]}},
        },
    }
    api.create(RUNTIMES, None, runtime)
    trainer = {"numNodes": 1, "resourcesPerNode": {"limits": {"nvidia.com/gpu": "8"}}}
    spec = {"runtimeRef": {"name": _RUNTIME}, "trainer": trainer}
    api.each(
        wanted,
        lambda name: api.create(
            TRAINJOBS, NAMESPACE, {"apiVersion": version, "kind": TRAINJOBS.kind, "metadata": {"name": name}, "spec": spec}
        ),
    )


# ---- the cluster's part


def make_preparation_pods(api: ApiServer) -> None:
    """Every Job has a pod."""

    def make(job: Json) -> None:
        name = job["metadata"]["name"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
        _make_pod(api, f"{name}-0", job["spec"]["template"], {"job-name": name}, owners=[owner])

    api.each(api.items(kinds.JOBS, NAMESPACE), make)


def complete_preparations(api: ApiServer) -> None:
    """Every Job ends well: its pod says what it found, then the Job's status says that it is complete."""
    said = builders.prepared(rows=25600)

    def complete(job: Json) -> None:
        name, now = job["metadata"]["name"], _now()
        _say_of_pod(api, f"{name}-0", job["spec"]["template"], phase="Succeeded", exit_code=0, result=said)
        ended = [{"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now} for kind in _COMPLETE]
        status = {"startTime": now, "completionTime": now, "succeeded": 1, "ready": 0, "conditions": ended}
        api.write_status(kinds.JOBS, NAMESPACE, name, status)

    api.each(api.items(kinds.JOBS, NAMESPACE), complete)


_COMPLETE = ("SuccessCriteriaMet", "Complete")


def run_rayjobs(api: ApiServer) -> None:
    """Every RayJob has a RayCluster, whose pods run."""

    def run(rayjob: Json) -> None:
        name = rayjob["metadata"]["name"]
        api.write_status(kinds.RAYJOBS, NAMESPACE, name, builders.rayjob_status(cluster=cluster_of(name)))
        put_ray_pods(api, rayjob)

    api.each(api.items(kinds.RAYJOBS, NAMESPACE), run)


def cluster_of(rayjob: str) -> str:
    """The name that the script gives the RayCluster of a RayJob."""
    return f"{rayjob}-abcde"


def put_ray_pods(api: ApiServer, rayjob: Json) -> None:
    """Head and workers, as KubeRay would make them, run."""
    cluster, spec = cluster_of(rayjob["metadata"]["name"]), rayjob["spec"]["rayClusterSpec"]
    (workers,) = spec["workerGroupSpecs"]
    templates = [spec["headGroupSpec"]["template"], *[workers["template"]] * workers["replicas"]]
    for number, template in enumerate(templates):
        labels = {"ray.io/cluster": cluster, keys.NODE_TYPE_LABEL: "worker" if number else "head"}
        owner = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": cluster, "uid": f"uid-of-{cluster}", "controller": True}
        _make_pod(api, f"{cluster}-{number}", template, labels, owners=[owner])
        _say_of_pod(api, f"{cluster}-{number}", template, phase="Running")


def _make_pod(api: ApiServer, name: str, template: Json, labels: Json, *, owners: Iterable[Json] = ()) -> None:
    """A pod of that template which no scheduler touches."""
    metadata = template["metadata"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "name": name, "labels": metadata["labels"] | labels, "ownerReferences": list(owners)},
        # Service accounts of heads and workers are there, but the API server may not have seen them yet.
        "spec": {**template["spec"], "schedulerName": "nobody", "serviceAccountName": "default", "serviceAccount": "default"},
    }
    api.create(kinds.PODS, NAMESPACE, pod)


def _say_of_pod(api: ApiServer, name: str, template: Json, *, phase: str, **state: Any) -> None:
    """What a kubelet says of a pod."""
    container = template["spec"]["containers"][0]
    status = builders.raw_pod(phase=phase, container=container["name"], **state)["status"]
    (told,) = status["containerStatuses"]
    told |= {"image": container["image"], "imageID": "", "ready": phase == "Running", "restartCount": 0}
    api.write_status(kinds.PODS, NAMESPACE, name, status)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def report(api: ApiServer, job: str, step: int) -> None:
    """The driver of a job's first attempt reports."""
    status = {
        "cluster": cluster_of(keys.rayjob_name(job, 1)),
        "outcome": "Running",
        "step": step,
        "totalSteps": 10_000_000,
        "loss": 1.25 + 1 / (step + 1),
        "tokensPerSecond": 21_000.0 + step % 100,
        "etaSeconds": 36_000.0,
        "goodputSeconds": 10.0 * step,
        "reportedAt": _now(),
    }
    api.write_status(kinds.FINETUNEREPORTS, NAMESPACE, job, status)


def say_wrong_input(api: ApiServer, job: str) -> None:
    """The driver of a job's first attempt says that its data is wrong."""
    cluster = cluster_of(keys.rayjob_name(job, 1))
    told = {"cluster": cluster, "outcome": "Failed", "reason": "InvalidData", "message": "row 3", "permanent": True}
    api.write_status(kinds.FINETUNEREPORTS, NAMESPACE, job, told)


def fail(api: ApiServer, job: str) -> None:
    """KubeRay says that the RayJob of a job's first attempt has failed."""
    name = keys.rayjob_name(job, 1)
    ended = builders.rayjob_status("Failed", job="FAILED", cluster=cluster_of(name)) | {"endTime": _now()}
    api.write_status(kinds.RAYJOBS, NAMESPACE, name, ended)


def suspend(api: ApiServer, job: str) -> None:
    """A person suspends a job."""
    api.change(kinds.FINETUNEJOBS, NAMESPACE, job, {"spec": {"suspend": True}})


# ---- jobs that are where others have brought them


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What the operator has left of a job at one moment of its life, with the job's status. JSON, to be copied by text."""

    uid: str
    status: str
    rayjob: str
    report: str


def lives() -> tuple[Left, Left]:
    """A job that trains, and the same job when it has succeeded."""
    world = World(trainer_image="registry.example/trainer:1")
    kubelet = Kubelet(world.api, now=world.clock.now)
    world.submit(**_SPEC)
    world.settle()
    kubelet.complete("-prepare-", builders.prepared(rows=25600))
    world.settle()
    name = keys.rayjob_name(builders.NAME, 1)
    kubelet.rayjob(name, "Running", job="RUNNING")
    kubelet.ray_pods(cluster_of(name), workers=1)
    world.settle()
    trains = _left(world)
    kubelet.report(cluster_of(name), outcome="Finished", step=100, totalSteps=100, loss=1.25)
    kubelet.finish(name)
    world.settle()
    assert world.condition("Succeeded")[0] == "True", world.status
    return trains, _left(world)


def _left(world: World) -> Left:
    (rayjob,), (told,) = world.api.of(kinds.RAYJOBS), world.api.of(kinds.FINETUNEREPORTS)
    return Left(uid=builders.UID, status=json.dumps(world.status), rayjob=json.dumps(rayjob), report=json.dumps(told))


def bring(api: ApiServer, wanted: Iterable[str], left: Left, *, trains: bool) -> None:
    """Put jobs that are prepared where that life was. `trains`: their RayClusters' pods run."""
    uids = {item["metadata"]["name"]: item["metadata"]["uid"] for item in api.items(kinds.FINETUNEJOBS, NAMESPACE, whole=False)}

    def put(name: str) -> None:
        def own(text: str) -> Json:
            copied: Json = json.loads(text.replace(left.uid, uids[name]).replace(builders.NAME, name))
            return copied

        _put(api, kinds.FINETUNEREPORTS, own(left.report))
        rayjob = own(left.rayjob)
        made = _put(api, kinds.RAYJOBS, rayjob)
        if trains:
            put_ray_pods(api, rayjob)
        status = own(left.status)
        status["attempts"][0]["rayJob"]["uid"] = made["metadata"]["uid"]
        api.write_status(kinds.FINETUNEJOBS, NAMESPACE, name, status)

    api.each(wanted, put)


def _put(api: ApiServer, resource: Resource, item: Json) -> Json:
    """Make an object and write its status."""
    metadata = {key: value for key, value in item["metadata"].items() if key in ("name", "labels", "annotations", "ownerReferences")}
    made = api.create(resource, NAMESPACE, {**item, "metadata": metadata})
    return api.write_status(resource, NAMESPACE, metadata["name"], item["status"]) if item.get("status") else made
