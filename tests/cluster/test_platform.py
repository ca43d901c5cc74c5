"""docs/platform.md, typed word for word: two teams under Kueue's quota, an upgrade in the middle, and no step is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.operator import BUCKET, Jobs
from tests.cluster.shell import typed, typed_into_a_shell
from tests.conftest import ROOT
from tests.control_plane.prometheus import installed
from tests.testcluster import first_job
from tests.testcluster.cluster import Cluster
from tests.testcluster.kueue import start_kueue

from finetune_api.cluster_checks import cluster_problems
from finetune_api.job_defaults import parse_defaults, with_defaults
from finetune_api.jobfile import load_job
from finetune_api.plan import plan

PAGE = ROOT / "docs/platform.md"
SAMPLES = ROOT / "manifests/samples/platform"
JOBS = {"team-a": "nightly", "team-b": "urgent"}


def test_only_the_cluster_itself_is_left_out() -> None:
    programs = [command.split()[:2] for command in typed(PAGE.read_text(), left_out=True)]
    assert programs == [["make", "cluster"], ["make", "cluster-down"]]


def test_every_file_that_is_typed_is_there_and_every_sample_is_typed() -> None:
    commands = " ".join(typed(PAGE.read_text())).split()
    paths = {word for word in commands if word.startswith(("manifests/", "charts/"))}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    assert {ROOT / path for path in paths} >= {path for path in SAMPLES.iterdir()}


@pytest.mark.parametrize("team", JOBS)
def test_the_platforms_defaults_complete_a_teams_job(team: str) -> None:
    values = yaml.safe_load((SAMPLES / "values.yaml").read_text(encoding="utf-8"))
    job = with_defaults(load_job(SAMPLES / f"{team}.yaml"), parse_defaults(yaml.safe_dump(values["jobDefaults"]), "jobDefaults"))
    assert (job.metadata.namespace, job.metadata.name) == (team, JOBS[team])
    assert cluster_problems(job) == []
    assert plan(job, None, None).nodes == job.spec.workers.nodes
    queues = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in _documents(SAMPLES / "queues.yaml")}
    assert {("LocalQueue", team, pods.queue_name) for pods in (job.spec.workers, job.spec.cpu_pods)} <= queues


def _documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@pytest.mark.platform
@pytest.mark.timeout(3300)
def test_the_page_typed_word_for_word(own_cluster: Cluster, tmp_path: Path) -> None:
    installed("prometheus")
    start_kueue(own_cluster.control_plane)
    first_job.prepare(own_cluster, say=lambda line: None)
    teams = {namespace: Jobs(cluster=own_cluster, namespace=namespace, data="") for namespace in JOBS}

    def told() -> str:
        workloads = own_cluster.kubectl("get", "workloads", "-A", "-o=yaml")
        return "\n".join([*(jobs.told(JOBS[namespace]) for namespace, jobs in teams.items()), workloads])

    outputs = typed_into_a_shell(typed(PAGE.read_text()), tmp_path, told, seconds=3000)

    def printed(beginning: str) -> list[str]:
        return [output.strip() for command, output in outputs if command.startswith(beginning)]

    [refused] = printed("while sed")
    assert "asks for 8 GPUs (nodes x gpusPerNode); a job of namespace team-b may have 1" in refused
    defaults, evicted, waits, attempts = printed("kubectl get finetunejob nightly --namespace team-a -o")
    given = json.loads(defaults)["values"]
    assert (given["workers"]["queueName"], given["cpuPods"]["queueName"]) == ("gpus", "gpus")
    assert len(printed("kubectl get pods -A -l")[0].splitlines()) > 2, "two workers at least have the label for the bill"
    borrowed = {one["name"]: (one["total"], one["borrowed"]) for one in json.loads(printed("kubectl get clusterqueue team-a")[0])}
    assert borrowed["example.com/gpu"] == ("2", "1")

    assert "Training" in printed("until promtool")[0]
    upgraded = printed("kubectl get pods --namespace finetune-system")[0]
    assert f":{first_job.NEXT}" in upgraded
    [during] = [output for command, output in outputs if command == "kubectl get finetunejob nightly --namespace team-a"]
    assert "Training" in during, "it was not stopped"

    assert "Preempted to accommodate a workload" in evicted
    assert "RayJob nightly-1 waits in queue gpus" in waits
    first, second = (line.split() for line in attempts.splitlines())
    assert (first[:2], second[:2]) == (["nightly-1", "Preempted"], ["nightly-1", "Stopped"]), "the upgrade ended none; the same RayJob"
    assert first[3] == second[2], "a step was lost, or done twice"
    done = int(second[3])
    assert done > int(first[3]) > 0
    assert measured_steps(own_cluster) == list(range(1, done + 1)), "every step once"

    usage = {line.split()[1]: line.split()[2:] for line in printed("kubectl get finetunejobs -A -o")[0].splitlines()[1:]}
    assert usage["nightly"] == ["0", "0"], "nothing is charged, and a device that nobody called a GPU is none"
    assert 0 < float(usage["urgent"][0]) < 1
    assert "urgent" in printed("finetune usage")[0]
    [left] = [output.split() for command, output in outputs if command == "kubectl get finetunejobs -A"]
    assert {"nightly", "urgent"} <= set(left), "users' jobs stay when the operator goes"


def measured_steps(cluster: Cluster) -> list[int]:
    """The steps of the nightly job, in the order in which they were done."""
    found = cluster.s3.client().get_object(Bucket=BUCKET, Key="jobs/team-a/nightly/metrics.jsonl")
    events = [json.loads(line) for line in found["Body"].read().decode().splitlines()]
    return [event["step"] for event in events if event["kind"] == "StepDone"]
