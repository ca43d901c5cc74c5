"""One real cluster for all tests of this folder, made when the first of them asks for it and removed after the last."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.testcluster.cluster import Cluster
from tests.testcluster.cluster import cluster as running_cluster
from tests.testcluster.hub import HUB_PORT
from tests.testcluster.machine import leftovers
from tests.testcluster.network import HOST_ADDRESS
from tests.testcluster.node import mounts_below
from tests.trainer.hub_server import HubServer


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes, names, KubeRay, S3. Without root there is none; under CI that is a failure. After a failed test the logs stay."""
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
def hub(cluster: Cluster) -> Iterator[HubServer]:
    """The Hub that pods reach, in this process: its repositories can be looked into, its requests made to fail."""
    server = HubServer(host=HOST_ADDRESS, port=HUB_PORT)
    yield server
    server.close()


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test's own under restricted pod security; gone with all that is in it afterwards."""
    name = request.node.name.lower().replace("_", "-").replace("[", "-").replace("]", "")[:50].strip("-")
    restricted = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}})
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
