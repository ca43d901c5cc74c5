"""Workers start again in the attempt that runs, on real pods: KubeRay replaces the one that is gone."""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.operator import Jobs, node_of
from tests.testcluster import cgroups
from tests.testcluster.cluster import Cluster

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1500)]


def test_workers_that_are_killed_start_again_in_the_same_attempt(own_cluster: Cluster, jobs: Jobs) -> None:
    """First one rank, in a pod that lives; then all of a worker's pod, which KubeRay replaces. The first is charged, the second is not."""
    steps = 150
    jobs.apply("phoenix", training__maxSteps=steps, checkpoints__every={"steps": 5}, publish=None)
    for count, named in ((1, "ray::RayTrainWo"), (2, "")):
        # One of these workers' own: each start has a claim.
        jobs.wait("phoenix", lambda status, count=count: status.get("checkpoints", {}).get("latest", {}).get("attempt", 0) == count)
        before, pod = time.monotonic(), jobs.ray_pods("phoenix", "worker")[-1]
        assert kill(pod, named) >= 1
        found = jobs.wait("phoenix", lambda status, count=count: restarts_of(status).get("count", 0) == count)["status"]
        print(f"workers lived again {time.monotonic() - before:.0f} s after: {restarts_of(found)}")
        assert restarts_of(found)["node"] == node_of(pod)
    jobs.wait_for("phoenix", "Succeeded")
    status = jobs.get("phoenix")["status"]
    assert [attempt["outcome"] for attempt in status["attempts"]] == ["Finished"]
    assert (restarts_of(status)["count"], restarts_of(status)["charged"], status["usage"]["chargedFailures"]) == (2, 1, 1)
    assert jobs.measured_steps("phoenix") == list(range(1, steps + 1)), "every step once"


def restarts_of(status: dict[str, Any]) -> dict[str, Any]:
    """What the status says of starts in place of its last attempt."""
    found: dict[str, Any] = status["attempts"][-1].get("restarts", {})
    return found


def kill(pod: dict[str, Any], named: str) -> int:
    """`kill -9` of the pod's processes whose names begin so, at one moment; how many."""
    ids = {one["containerID"].rpartition("/")[2] for one in pod["status"]["containerStatuses"]}
    killed = 0
    for process, container in cgroups.containers_of(node_of(pod)).items():
        with contextlib.suppress(OSError):
            if container in ids and Path(f"/proc/{process}/comm").read_text().startswith(named):
                os.kill(process, signal.SIGKILL)
                killed += 1
    return killed
