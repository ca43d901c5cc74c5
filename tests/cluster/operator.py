"""The operator as a user has it: its real image, installed with Helm, on the test cluster; and jobs small enough for two cores."""

import contextlib
import copy
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.conftest import ROOT
from tests.testcluster.any_cluster import AnyCluster
from tests.testcluster.binaries import binaries
from tests.testcluster.hub import WRITE_TOKEN

NAMESPACE = "finetune-system"
BUCKET = "finetune"
# A Secret's value that must be in no object, event or log.
HUB_TOKEN = WRITE_TOKEN


@contextlib.contextmanager
def installed(cluster: AnyCluster, image: str, *more: str) -> Iterator[None]:
    """The chart, installed with this image of the operator and more of Helm's arguments; uninstalled with the block.

    CRDs and namespace stay.
    """
    cluster.apply(SYSTEM)
    values = chart_values(image, cluster.trainer_image)
    helm(cluster, "install", "finetune-operator", str(ROOT / "charts/finetune-operator"), *values, *more)
    try:
        yield
    finally:
        helm(cluster, "uninstall", "finetune-operator", "--wait")


RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SYSTEM = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}}


def chart_values(image: str, trainer_image: str) -> list[str]:
    """Helm's arguments for these images, and for waiting until the operator is there."""
    repository, _, tag = image.rpartition(":")
    trainer_repository, _, trainer_tag = trainer_image.rpartition(":")
    images = {
        "image.repository": repository,
        "image.tag": tag,
        "trainer.image.repository": trainer_repository,
        "trainer.image.tag": trainer_tag,
    }
    return [
        "--wait",
        "--timeout=180s",
        *(f"--set-string={name}={value}" for name, value in images.items()),
        "--set=trainer.stopSeconds=120",
    ]


def helm(cluster: AnyCluster, *arguments: str) -> str:
    """Run Helm in the operator's namespace."""
    program = binaries(("helm",))["helm"]
    command = [str(program), *arguments, f"--namespace={NAMESPACE}", f"--kubeconfig={cluster.kubeconfig}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """A namespace with what jobs need: Secrets, a bucket, a tiny base model and data in it."""

    cluster: AnyCluster
    namespace: str
    data: str

    @classmethod
    def ready(cls, cluster: AnyCluster, namespace: str, data: Path) -> "Jobs":
        """Upload the model and `data`, and make the Secrets."""
        client = cluster.s3.client()
        if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=BUCKET)
        for path in sorted((ROOT / "examples/tiny").iterdir()):
            client.upload_file(str(path), BUCKET, f"base/tiny/{path.name}")
        # Rows of samples are longer than those that the tiny model was written for.
        config = json.loads((ROOT / "examples/tiny/config.json").read_text(encoding="utf-8")) | {"n_positions": 1024}
        client.put_object(Bucket=BUCKET, Key="base/tiny/config.json", Body=json.dumps(config).encode())
        client.upload_file(str(data), BUCKET, f"data/{data.name}")
        hub = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "hub", "namespace": namespace},
            "stringData": {"token": HUB_TOKEN},
        }
        cluster.apply(cluster.s3.secret("s3", namespace), hub)
        return cls(cluster=cluster, namespace=namespace, data=data.name)

    def job(self, name: str, **changes: Any) -> dict[str, Any]:
        """A job of a few steps on two nodes; `changes` name fields of spec, `__` between them."""
        spec: dict[str, Any] = {
            "model": {"name": f"s3://{BUCKET}/base/tiny", "initialization": "random"},
            "dataset": {"sources": [{"path": f"s3://{BUCKET}/data/{self.data}"}], "evaluation": {"fraction": 0.1}},
            "training": {
                "maxSteps": 6,
                "maxSequenceLength": 256,
                "microBatchSize": 2,
                "globalBatchSize": 8,
                "optimizer": {"learningRate": 2.0e-3},
                "activationCheckpointing": False,
            },
            "workers": {
                "nodes": 2,
                "device": "cpu",
                "gpusPerNode": 0,
                "workersPerNode": 1,
                "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
            },
            "cpuPods": {
                "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
                "env": [{"name": "HF_ENDPOINT", "value": self.cluster.hub_url}],
            },
            "checkpoints": {
                "storage": f"s3://{BUCKET}/{self.namespace}/{name}",
                "endpoint": self.cluster.s3.endpoint,
                "credentialsSecret": {"name": "s3"},
            },
            "publish": {"hub": {"repository": f"org/{name}", "tokenSecret": {"name": "hub"}}},
        }
        runtime = dict.fromkeys(("cpuPods__runtimeClassName", "workers__runtimeClassName"), self.cluster.runtime_class)
        return {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": changed(spec, runtime | changes),
        }

    def apply(self, name: str, **changes: Any) -> None:
        """`kubectl apply` of such a job."""
        self.cluster.apply(self.job(name, **changes))

    def apply_sample(self, sample: str, **changes: Any) -> str:
        """`kubectl apply` of a sample: the lines that are its reader's are this cluster's, and `changes`. The job's name."""
        manifest = yaml.safe_load((ROOT / f"manifests/samples/{sample}.yaml").read_text(encoding="utf-8"))
        name = str(manifest["metadata"]["name"])
        manifest["metadata"]["namespace"] = self.namespace
        runtime = self.cluster.runtime_class
        readers = {
            "checkpoints__storage": f"s3://{BUCKET}/{self.namespace}/{name}",
            "checkpoints__endpoint": self.cluster.s3.endpoint,
            "publish__hub__repository": f"org/{name}",
            "cpuPods__env": [{"name": "HF_ENDPOINT", "value": self.cluster.hub_url}],
            "cpuPods__runtimeClassName": runtime,
            "workers__runtimeClassName": runtime,
        }
        manifest["spec"] = changed(manifest["spec"], readers | changes)
        self.cluster.apply(manifest)
        return name

    def patch(self, kind: str, name: str, **spec: Any) -> None:
        """`kubectl patch` of fields of a spec."""
        self.cluster.kubectl("patch", kind, name, "--type=merge", f"--patch={json.dumps({'spec': spec})}", f"--namespace={self.namespace}")

    def delete(self, kind: str, name: str) -> None:
        """`kubectl delete`, without waiting for what belongs to it."""
        self.cluster.kubectl("delete", kind, name, f"--namespace={self.namespace}", "--wait=false")

    def upload(self, name: str, content: bytes) -> str:
        """Put a file beside the data; its URL."""
        self.cluster.s3.client().put_object(Bucket=BUCKET, Key=f"data/{name}", Body=content)
        return f"s3://{BUCKET}/data/{name}"

    def get(self, name: str) -> dict[str, Any]:
        """The FineTuneJob now."""
        return self.cluster.get("finetunejob", name, self.namespace)

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """One of its conditions; empty while it isn't there."""
        return next((one for one in self.get(name).get("status", {}).get("conditions", []) if one["type"] == kind), {})

    def wait(self, name: str, until: Callable[[dict[str, Any]], bool], seconds: float = 600.0) -> dict[str, Any]:
        """The job, once its status is as wanted; fails at once when the job has failed."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.get(name)
            status = found.get("status", {})
            if until(status):
                return found
            failed = any(one["type"] in ("Failed", "Stalled") and one["status"] == "True" for one in status.get("conditions", []))
            if failed or time.monotonic() > deadline:
                raise AssertionError(f"{name} is not as wanted{' and has ended' if failed else ''}:\n{self.told(name)}")
            time.sleep(1)

    def wait_for(self, name: str, kind: str, status: str = "True", seconds: float = 600.0) -> dict[str, Any]:
        """The condition once it has that status; fails at once when the job has failed."""

        def has(found: dict[str, Any]) -> bool:
            return any(one["type"] == kind and one["status"] == status for one in found.get("conditions", []))

        conditions: list[dict[str, Any]] = self.wait(name, has, seconds)["status"]["conditions"]
        return next(one for one in conditions if one["type"] == kind)

    def wait_until_trains(self, name: str, attempt: int) -> int:
        """A step of this attempt, once it has done one more than the attempt before."""

        def does(status: dict[str, Any]) -> bool:
            last = (status.get("attempts") or [{}])[-1]
            return last.get("number") == attempt and status.get("progress", {}).get("step", 0) > last.get("firstStep", 0)

        return int(self.wait(name, does)["status"]["progress"]["step"])

    def wait_for_checkpoint(self, name: str, since: int) -> int:
        """Step of the newest checkpoint, once it is `since` or later."""

        def is_there(status: dict[str, Any]) -> bool:
            return bool(status.get("checkpoints", {}).get("latest", {}).get("step", 0) >= since)

        return int(self.wait(name, is_there)["status"]["checkpoints"]["latest"]["step"])

    def wait_until_ended(self, name: str, attempt: int) -> dict[str, Any]:
        """The job once this attempt has ended."""
        return self.wait(name, lambda status: any(a["number"] == attempt and "outcome" in a for a in status.get("attempts", [])))

    def wait_until_told(self, name: str, words: list[str], seconds: float = 240.0) -> None:
        """Until the job's conditions hold all of these words."""
        deadline = time.monotonic() + seconds
        while True:
            conditions = self.get(name).get("status", {}).get("conditions", [])
            said = " ".join(f"{one['reason']}: {one['message']}" for one in conditions)
            if all(word in said for word in words):
                return
            assert time.monotonic() < deadline, f"{words} not in the conditions:\n{self.told(name)}"
            time.sleep(1)

    def wait_until_no_ray_pods(self, *names: str, seconds: float = 120.0) -> None:
        """Until head and workers of these jobs are gone, and with them their GPUs."""
        self.wait_while(lambda: [pod["metadata"]["name"] for name in names for pod in self.ray_pods(name)], seconds)

    def wait_while(self, there: Callable[[], list[str]], seconds: float) -> None:
        """Until nothing of that is there any more."""
        deadline = time.monotonic() + seconds
        while left := there():
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(1)

    def ray_pods(self, name: str, kind: str = "head worker") -> list[dict[str, Any]]:
        """Pods of a job's RayClusters: head, workers or both."""
        labels = [(pod, pod["metadata"].get("labels", {})) for pod in self.objects("pods")]
        return [
            pod for pod, label in labels if label.get("finetune.dev/job") == name and label.get("ray.io/node-type", "-") in kind.split()
        ]

    def told(self, name: str) -> str:
        """Everything a person would look at."""
        kubectl = self.cluster.kubectl
        try:
            told = [json.dumps(self.get(name).get("status", {}), indent=1)]
        except RuntimeError as error:  # it isn't there, which is part of the story
            return str(error)
        for arguments in (("get", "pods,jobs,rayjobs,rayclusters", "-o=wide"), ("get", "events", "--sort-by=.lastTimestamp")):
            with contextlib.suppress(RuntimeError):
                told.append(kubectl(*arguments, f"--namespace={self.namespace}"))
        pods = json.loads(kubectl("get", "pods", f"--namespace={self.namespace}", "-o=json"))["items"]
        for pod in pods:
            with contextlib.suppress(RuntimeError):
                logs = kubectl("logs", pod["metadata"]["name"], f"--namespace={self.namespace}", "--all-containers", "--tail=40")
                told.append(f"--- {pod['metadata']['name']}\n{logs}")
        return "\n".join(told)

    def objects(self, *kinds: str) -> list[dict[str, Any]]:
        """All objects of these kinds in the namespace."""
        found: list[dict[str, Any]] = json.loads(self.cluster.kubectl("get", ",".join(kinds), f"--namespace={self.namespace}", "-o=json"))[
            "items"
        ]
        return found

    def measured_steps(self, name: str) -> list[int]:
        """The steps in the job's metrics.jsonl, in its order."""
        key = f"{self.namespace}/{name}/metrics.jsonl"
        text = self.cluster.s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
        return [event["step"] for event in map(json.loads, text.splitlines()) if event["kind"] == "StepDone"]

    def stored(self, name: str) -> list[str]:
        """Keys in the job's storage."""
        pages = self.cluster.s3.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.namespace}/{name}/")
        return [one["Key"].removeprefix(f"{self.namespace}/{name}/") for page in pages for one in page.get("Contents", [])]

    def kept_logs(self, name: str) -> dict[str, str]:
        """Pieces of logs in the job's storage, by key."""
        client, prefix = self.cluster.s3.client(), f"{self.namespace}/{name}/"
        keys = [key for key in self.stored(name) if key.startswith("logs/")]
        return {key: client.get_object(Bucket=BUCKET, Key=prefix + key)["Body"].read().decode() for key in keys}


def most_of_a_node(jobs: Jobs) -> str:
    """More than half of a node's memory, as a request: nothing needs to be there."""
    nodes = json.loads(jobs.cluster.kubectl("get", "nodes", "-o=json"))["items"]
    kibibytes = max(int(node["status"]["allocatable"]["memory"].removesuffix("Ki")) for node in nodes)
    return f"{kibibytes * 55 // 100}Ki"


def node_of(pod: dict[str, Any]) -> str:
    return str(pod["spec"].get("nodeName", ""))


def changed(spec: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of `spec`; `changes` name fields, `__` between them, and None takes a field out.

    >>> changed({"a": {"b": 1, "c": 2}}, {"a__b": None, "a__d__e": 3})
    {'a': {'c': 2, 'd': {'e': 3}}}
    """
    spec = copy.deepcopy(spec)
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = spec
        for parent in parents:
            target = target.setdefault(parent, {})
        if value is None:
            target.pop(last, None)
        else:
            target[last] = value
    return spec
