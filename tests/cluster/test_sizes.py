"""Attempts that are smaller than asked for: on fewer nodes until there are more, and with half the micro-batch where memory ran out."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.cluster.operator import Jobs, most_of_a_node, node_of
from tests.testcluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.platform, pytest.mark.timeout(1500)]

_STEPS = 100


def test_a_job_begins_on_one_node_and_takes_both_after_a_checkpoint(own_cluster: Cluster, jobs: Jobs) -> None:
    """A worker finds no node, so the next attempt has one. When the other is back and an hour over, both train, and no step is lost."""
    away = own_cluster.nodes[1].name
    own_cluster.kubectl("cordon", away)
    try:
        jobs.apply(
            "small",
            training__maxSteps=_STEPS,
            checkpoints__every={"steps": 5},
            workers__minNodes=1,
            workers__startDeadlineSeconds=90,
            workers__resources={"requests": {"cpu": "100m", "memory": most_of_a_node(jobs)}},
            publish=None,
        )
        jobs.wait_until_trains("small", attempt=2)
    finally:
        own_cluster.kubectl("uncordon", away)
    status = jobs.get("small")["status"]
    first, second = status["attempts"]
    assert (first["outcome"], first.get("charged", False)) == ("NotStarted", False), jobs.told("small")
    assert (second["workerPods"], status["adjusted"]["nodes"]) == (1, 1)

    an_hour_is_over(jobs, "small")
    jobs.wait_until_trains("small", attempt=3)
    assert len({node_of(pod) for pod in jobs.ray_pods("small", "worker")}) == 2, "one worker pod a node"
    jobs.wait_for("small", "Succeeded")
    status = jobs.get("small")["status"]
    second, third = status["attempts"][1:]
    assert (second["outcome"], second.get("charged", False), second["lastStep"]) == ("Stopped", False, third["firstStep"]), status
    assert "nodes" not in status.get("adjusted", {})
    assert jobs.measured_steps("small") == list(range(1, _STEPS + 1)), "every step once"


def an_hour_is_over(jobs: Jobs, name: str) -> None:
    """The status says that fewer nodes were taken two hours ago."""
    earlier = (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    patch = json.dumps({"status": {"adjusted": {"resizedTime": earlier}}})
    where = ("--subresource=status", "--type=merge", f"--patch={patch}", f"--namespace={jobs.namespace}")
    jobs.cluster.kubectl("patch", "finetunejob", name, *where)


# Fills the container's memory by what is no process's, so that none is spared by its end; a rank asks for more meanwhile.
_FILL = """
with open("/dev/shm/ballast", "wb", buffering=0) as file:
    while True:
        file.write(bytes(1 << 24))
"""


def test_a_worker_that_runs_out_of_memory_goes_on_with_half_the_micro_batch(jobs: Jobs) -> None:
    """The kernel ends its container. The attempt is charged, and the next has half the rows a micro-step and twice as many of them."""
    limited = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "3Gi"}}
    jobs.apply(
        "greedy",
        training__maxSteps=60,
        checkpoints__every={"steps": 5},
        failurePolicy={"backoffSeconds": 1},
        workers__nodes=1,
        workers__resources=limited,
        publish=None,
    )
    step = jobs.wait_for_checkpoint("greedy", since=5)
    (worker,) = jobs.ray_pods("greedy", "worker")
    fill_memory(jobs, worker)
    ended = jobs.wait_until_ended("greedy", 1)["status"]["attempts"][0]
    print(ended)
    assert (ended["outcome"], ended["failure"], ended["charged"]) == ("Failed", "OutOfMemory", True), jobs.told("greedy")
    jobs.wait_until_trains("greedy", attempt=2)
    status = jobs.get("greedy")["status"]
    assert (status["attempts"][1]["microBatchSize"], status["adjusted"]["microBatchSize"]) == (1, 1)
    assert status["attempts"][1]["firstStep"] >= step
    jobs.wait_for("greedy", "Succeeded")
    assert jobs.measured_steps("greedy") == list(range(1, 61)), "every step once"


def fill_memory(jobs: Jobs, pod: dict[str, Any]) -> None:
    """Until its container, or what fills it, is gone."""
    name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
    try:
        jobs.cluster.kubectl("exec", name, f"--container={container}", f"--namespace={jobs.namespace}", "--", "python", "-c", _FILL)
    except RuntimeError as error:
        print(error)
