"""Where the platform chooses users and groups, as OpenShift does: the first sample runs there, and no process is anybody else."""

from pathlib import Path

import pytest
from tests.cluster.assigned_ids import Ids, assigned_ids, watched
from tests.cluster.operator import NAMESPACE, Jobs, installed
from tests.cluster.pods import pod
from tests.testcluster import first_job
from tests.testcluster.cluster import Cluster
from tests.trainer.hub_server import HubServer

FIRST = 1000680000
EACH = 10000
# Stage, kind of Ray's node and name of every container of a job's pods.
CONTAINERS = {
    ("preparation", None, "main"),
    ("training", "head", "ray-head"),
    ("training", "worker", "ray-worker"),
    ("training", "worker", "wait-gcs-ready"),
    ("training", None, "ray-job-submitter"),
    ("publication", None, "main"),
}


@pytest.mark.platform
@pytest.mark.timeout(2400)
def test_every_container_of_the_first_sample_has_the_assigned_user(
    own_cluster: Cluster, operator_image: str, hub: HubServer, namespace: str, tmp_path: Path
) -> None:
    ranges = {NAMESPACE: range(FIRST, FIRST + EACH), namespace: range(FIRST + EACH, FIRST + 2 * EACH)}
    with assigned_ids(own_cluster, tmp_path, ranges):
        with pytest.raises(RuntimeError, match=r"runAsUser: 1000 is not in 1000690000 to 1000699999"):
            own_cluster.apply(pod("fixed", namespace, ["true"]))
        with watched(own_cluster, tmp_path) as seen, installed(own_cluster, operator_image, "--set=assignedIds=true"):
            jobs = Jobs.ready(own_cluster, namespace, first_job.DATA / "train.jsonl")
            name = jobs.apply_sample("tiny", training__maxSteps=5)
            jobs.wait_for(name, "Succeeded", seconds=900)
    assert hub.repositories[f"org/{name}"].at("main") is not None

    ours = {one: found for one, found in seen.containers.items() if found[0] in ranges}
    assert {where for where, _, _ in ours.values()} == ranges.keys(), "the operator's pods too"
    stages = [(labels.get("finetune.dev/stage"), labels.get("ray.io/node-type"), name) for _, labels, name in ours.values()]
    assert {one for one in stages if one[0]} == CONTAINERS
    for container, (where, _, name) in ours.items():
        assigned = frozenset([ranges[where].start])
        assert seen.ids.get(container) == {Ids(assigned, assigned, assigned)}, f"{where} {name}"
