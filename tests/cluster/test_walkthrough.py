"""docs/try-it.md, typed word for word: its commands run in one shell against the cluster and show what the page says."""

from pathlib import Path

import pytest
from tests.cluster.operator import Jobs
from tests.cluster.shell import typed, typed_into_a_shell
from tests.conftest import ROOT
from tests.testcluster import first_job
from tests.testcluster.cluster import Cluster
from tests.trainer.hub_server import HubServer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

PAGE = ROOT / "docs/try-it.md"


def test_only_the_cluster_itself_is_left_out() -> None:
    programs = [command.split()[:2] for command in typed(PAGE.read_text(), left_out=True)]
    assert programs == [["apt-get", "install"], ["make", "cluster"], ["make", "cluster-down"]]


def test_the_page_typed_word_for_word(own_cluster: Cluster, hub: HubServer, tmp_path: Path) -> None:
    first_job.prepare(own_cluster, say=lambda line: None)
    jobs = Jobs(cluster=own_cluster, namespace="default", data="")
    outputs = typed_into_a_shell(typed(PAGE.read_text()), tmp_path, lambda: jobs.told("tiny"), seconds=2300)

    def printed(beginning: str) -> str:
        return next(output for command, output in outputs if command.startswith(beginning))

    assert printed("kubectl get nodes").count(" Ready ") == 2
    assert "condition met" in printed("kubectl wait --for=condition=Prepared")
    run = [line.strip(" ,") for line in printed("curl").splitlines()]
    assert {'"name": "tiny"', '"status": "RUNNING"', '"world_rank": 0', '"world_rank": 1'} <= set(run)
    suspended = printed("kubectl get finetunejob,pods")
    assert "Suspended" in suspended
    assert "Running" not in suspended, "its pods are given back"
    described = printed("kubectl describe finetunejob")
    for word in ("Succeeded", "Attempts:", "Stopped", "Finished", "Events:"):
        assert word in described, described
    assert hub.repositories["org/tiny"].at("main") is not None
    assert printed("finetune chat").strip(), "it answers"
