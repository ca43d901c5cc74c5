"""Where runs on a cluster are done: two nodes of this machine, the operator's own image, S3 under a name of the cluster's, and a Hub."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.cluster.operator import BUCKET, RESTRICTED, Jobs, installed
from tests.conftest import ROOT
from tests.reliability.cluster_faults import Scene
from tests.testcluster.cluster import Cluster
from tests.testcluster.cluster import cluster as running_cluster
from tests.testcluster.operator_image import operator_image
from tests.trainer.hub_server import HubServer

NAMESPACE: Final = "reliability"
INTERVAL_STEPS: Final = 5
_S3: Final = "storage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What must be equal in every run: digests of masters and moments, of the weights, and each step's numbers."""

    state: dict[str, str]
    weights: str
    steps: list[tuple[int, float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlace:
    """The cluster with the operator, a namespace for jobs and a Hub."""

    cluster: Cluster
    jobs: Jobs
    hub: HubServer

    def begin(self, name: str, steps: int, **changes: Any) -> Scene:
        """Apply a job of so many steps on both nodes; `changes` name fields of its spec, `__` between them."""
        host = f"{_S3}.{NAMESPACE}"
        port = urlsplit(self.cluster.s3.endpoint).port
        asked: dict[str, Any] = {
            "training__maxSteps": steps,
            "checkpoints__every": {"steps": INTERVAL_STEPS},
            "checkpoints__endpoint": f"http://{host}:{port}",
        }
        self.jobs.apply(name, **asked | changes)
        return Scene(cluster=self.cluster, jobs=self.jobs, name=name, s3_host=host)

    def result(self, name: str, steps: int) -> Result:
        """What a job came to that has succeeded."""
        client, prefix = self.cluster.s3.client(), f"{NAMESPACE}/{name}/"

        def stored(key: str) -> bytes:
            content: bytes = client.get_object(Bucket=BUCKET, Key=prefix + key)["Body"].read()
            return content

        parts = [key for key in self.jobs.stored(name) if key.startswith(f"checkpoints/step-{steps:08d}/") and "/rank-" in key]
        events = [json.loads(line) for line in stored("metrics.jsonl").splitlines()]
        return Result(
            # Whose attempt wrote a part is in its name, after the rank's.
            state={key.rpartition("/")[2].partition(".")[0]: hashlib.sha256(stored(key)).hexdigest() for key in parts},
            weights=hashlib.sha256(self.hub.files(f"org/{name}")["model.safetensors"]).hexdigest(),
            steps=[(event["step"], event["loss"], event["grad_norm"]) for event in events if event["kind"] == "StepDone"],
        )

    def publications(self, name: str) -> int:
        """How many commits of ours the repository has: the Hub makes the first one itself."""
        there = self.hub.repositories.get(f"org/{name}")
        return len(there.commits) - 1 if there is not None else 0


@contextmanager
def cluster_place() -> Iterator[ClusterPlace]:
    """All of it while the block runs; of the cluster's logs nothing stays."""
    image = operator_image()
    folder = Path(tempfile.mkdtemp(prefix="finetune-cluster-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cluster = stack.enter_context(running_cluster(folder))
        cluster.import_image(image)
        yield stack.enter_context(place_on(cluster, image.name))


@contextmanager
def place_on(cluster: Cluster, image: str) -> Iterator[ClusterPlace]:
    """The operator, a namespace and a Hub on a cluster that has the image."""
    where = urlsplit(cluster.hub_url)
    with ExitStack() as stack:
        stack.enter_context(installed(cluster, image))
        hub = HubServer(host=str(where.hostname), port=int(where.port or 80))
        stack.callback(hub.close)
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
        stack.callback(cluster.kubectl, "delete", "namespace", NAMESPACE, "--wait=false")
        cluster.apply(*_named(_S3, cluster.s3.endpoint))
        yield ClusterPlace(cluster=cluster, jobs=Jobs.ready(cluster, NAMESPACE, ROOT / "tests/data/tiny_dialogues.jsonl"), hub=hub)


def _named(name: str, endpoint: str) -> list[dict[str, Any]]:
    """A name of the cluster's for a server outside it: a Service without pods, and its address."""
    where = urlsplit(endpoint)
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": name}}
    ports = [{"name": "http", "port": where.port}]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"clusterIP": "None", "ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": "IPv4",
            "endpoints": [{"addresses": [where.hostname]}],
            "ports": ports,
        },
    ]
