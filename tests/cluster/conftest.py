"""One real cluster for all tests of this folder: one that is there already, if the environment names it (existing.py), or one of our own.

Ours is made when the first test asks for it and removed after the last.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.cluster import existing
from tests.cluster.operator import Jobs, installed
from tests.conftest import Tiny
from tests.testcluster.any_cluster import AnyCluster
from tests.testcluster.cluster import Cluster
from tests.testcluster.cluster import cluster as running_cluster
from tests.testcluster.machine import leftovers
from tests.testcluster.node import mounts_below
from tests.testcluster.operator_image import operator_image as built_operator_image
from tests.trainer.hub_server import HubServer


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyCluster]:
    """The cluster that the environment names, or our own."""
    if its := existing.named(os.environ):
        with existing.existing_cluster(its, tmp_path_factory.mktemp("s3")) as found:
            yield found
    else:
        yield request.getfixturevalue("own_cluster")


@pytest.fixture(scope="session")
def own_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes, names, KubeRay, S3. Without root there is none; under CI that is a failure. After a failed test the logs stay."""
    if existing.named(os.environ):
        pytest.skip(f"needs nodes that the tests started themselves; {existing.KUBECONFIG} names a cluster of others")
    if os.geteuid() != 0:
        message = "the cluster tests need root: they make network name spaces, mounts and control groups"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    # Not in pytest's folders: it deletes those of earlier sessions, also while a cluster of another one lives in them.
    folder = Path(tempfile.mkdtemp(prefix="finetune-cluster-"))
    with running_cluster(folder) as made:
        yield made
    assert leftovers() == []
    assert mounts_below(folder) == []
    if request.session.testsfailed:
        print(f"\nlogs of the cluster's programs: {folder}/processes", file=sys.stderr)
    else:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def operator_image(cluster: AnyCluster, request: pytest.FixtureRequest) -> str:
    """Name of the operator's image. Nodes of our own are given that of the working tree; those of others have it."""
    if its := existing.named(os.environ):
        return its.operator_image
    image = built_operator_image()
    request.getfixturevalue("own_cluster").import_image(image)
    return image.name


@pytest.fixture(scope="session")
def hub(cluster: AnyCluster) -> Iterator[HubServer]:
    """The Hub that pods reach, in this process: its repositories can be looked into, its requests made to fail."""
    where = urlsplit(cluster.hub_url)
    server = HubServer(host=str(where.hostname), port=int(where.port or 80))
    yield server
    server.close()


@pytest.fixture
def namespace(cluster: AnyCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test's own under restricted pod security; gone with all that is in it afterwards."""
    name = request.node.name.lower().replace("_", "-").replace("[", "-").replace("]", "")[:50].strip("-")
    restricted = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}})
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def operator(cluster: AnyCluster, operator_image: str) -> Iterator[AnyCluster]:
    """The cluster with the operator on it."""
    with installed(cluster, operator_image):
        yield cluster


@pytest.fixture
def jobs(operator: AnyCluster, hub: HubServer, namespace: str, tiny: Tiny) -> Jobs:
    """A namespace that is ready for jobs, with data written for tests, and a Hub to publish to."""
    return Jobs.ready(operator, namespace, tiny.dialogues)
