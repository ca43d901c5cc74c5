"""The operator as a user has it: its real image, installed with Helm, on the test cluster; and jobs small enough for two cores."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.testcluster.binaries import binaries
from tests.testcluster.cluster import Cluster
from tests.testcluster.host_python import HANDLER
from tests.testcluster.hub import WRITE_TOKEN, hub_url
from tests.testcluster.images import TRAINER_IMAGE
from tests.testcluster.operator_image import operator_image

NAMESPACE = "finetune-system"
BUCKET = "finetune"
# A Secret's value that must be in no object, event or log.
HUB_TOKEN = WRITE_TOKEN


@contextlib.contextmanager
def installed(cluster: Cluster) -> Iterator[None]:
    """The chart, installed; uninstalled with the block."""
    image = operator_image()
    cluster.import_image(image)
    repository, _, tag = image.name.rpartition(":")
    trainer_repository, _, trainer_tag = TRAINER_IMAGE.rpartition(":")
    values = {
        "image.repository": repository,
        "image.tag": tag,
        "image.pullPolicy": "Never",
        "trainer.image.repository": trainer_repository,
        "trainer.image.tag": trainer_tag,
        "trainer.pullPolicy": "Never",
        "trainer.stopSeconds": "120",
    }
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
    helm(cluster, "install", "finetune-operator", str(ROOT / "charts/finetune-operator"), "--wait", "--timeout=180s", *set_values(values))
    try:
        yield
    finally:
        helm(cluster, "uninstall", "finetune-operator", "--wait")


RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def set_values(values: dict[str, str]) -> list[str]:
    """Helm's arguments."""
    return [f"--set-string={name}={value}" if name != "trainer.stopSeconds" else f"--set={name}={value}" for name, value in values.items()]


def helm(cluster: Cluster, *arguments: str) -> str:
    """Run Helm in the operator's namespace."""
    program = binaries(("helm",))["helm"]
    command = [str(program), *arguments, f"--namespace={NAMESPACE}", f"--kubeconfig={cluster.kubeconfig}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """A namespace with what jobs need: Secrets, a bucket, a tiny base model and data in it."""

    cluster: Cluster
    namespace: str
    data: str

    @classmethod
    def ready(cls, cluster: Cluster, namespace: str, data: Path) -> "Jobs":
        """Upload the model and `data`, and make the Secrets."""
        client = cluster.s3.client()
        if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=BUCKET)
        for path in sorted((ROOT / "examples/tiny").iterdir()):
            client.upload_file(str(path), BUCKET, f"base/tiny/{path.name}")
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
            "dataset": {"sources": [{"name": f"s3://{BUCKET}/data/{self.data}"}], "evaluation": {"fraction": 0.1}},
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
                "runtimeClassName": HANDLER,
                "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
            },
            "cpuPods": {
                "runtimeClassName": HANDLER,
                "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
                "env": [{"name": "HF_ENDPOINT", "value": hub_url()}],
            },
            "checkpoints": {
                "storage": f"s3://{BUCKET}/{self.namespace}/{name}",
                "endpoint": self.cluster.s3.endpoint,
                "credentialsSecret": {"name": "s3"},
            },
            "publish": {"hub": {"repository": f"org/{name}", "tokenSecret": {"name": "hub"}}},
        }
        for path, value in changes.items():
            *parents, last = path.split("__")
            target = spec
            for parent in parents:
                target = target.setdefault(parent, {})
            target[last] = value
        return {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }

    def apply(self, name: str, **changes: Any) -> None:
        """`kubectl apply` of such a job."""
        self.cluster.apply(self.job(name, **changes))

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
        """The condition once it has that status."""
        deadline = time.monotonic() + seconds
        while (found := self.condition(name, kind)).get("status") != status:
            failed = any(self.condition(name, ended).get("status") == "True" for ended in ("Failed", "Stalled") if ended != kind)
            if failed or time.monotonic() > deadline:
                raise AssertionError(f"{name} is not {kind}={status}:\n{self.told(name)}")
            time.sleep(1)
        return found

    def wait_until_told(self, name: str, words: list[str], seconds: float = 240.0) -> None:
        """Until the conditions of planning and preparation hold all of these words."""
        deadline = time.monotonic() + seconds
        while True:
            said = " ".join(self.condition(name, kind).get("message", "") for kind in ("Planned", "Prepared"))
            if all(word in said for word in words):
                return
            assert time.monotonic() < deadline, f"{words} not in the conditions:\n{self.told(name)}"
            time.sleep(1)

    def wait_until_no_ray_pods(self, seconds: float = 120.0) -> None:
        """Until head and workers are gone, and with them their GPUs."""
        deadline = time.monotonic() + seconds
        while left := [pod["metadata"]["name"] for pod in self.objects("pods") if pod["metadata"]["labels"].get("ray.io/node-type")]:
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(1)

    def told(self, name: str) -> str:
        """Everything a person would look at."""
        kubectl = self.cluster.kubectl
        told = [json.dumps(self.get(name).get("status", {}), indent=1)]
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

    def stored(self, name: str) -> list[str]:
        """Keys in the job's storage."""
        pages = self.cluster.s3.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.namespace}/{name}/")
        return [one["Key"].removeprefix(f"{self.namespace}/{name}/") for page in pages for one in page.get("Contents", [])]
