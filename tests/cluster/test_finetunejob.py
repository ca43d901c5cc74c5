"""`kubectl apply` of a FineTuneJob on a real cluster: real KubeRay, real pods, a real S3 server, a Hub over HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.operator import HUB_TOKEN, Jobs, installed
from tests.conftest import REAL_FILES, Tiny
from tests.testcluster.cluster import Cluster
from tests.trainer.hub_server import HubServer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def operator(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with the operator on it."""
    with installed(cluster):
        yield cluster


@pytest.fixture
def jobs(operator: Cluster, namespace: str, tiny: Tiny) -> Jobs:
    """A namespace that is ready for jobs, with data written for tests."""
    return Jobs.ready(operator, namespace, tiny.dialogues)


def test_applied_it_is_prepared_trained_across_nodes_and_published(
    operator: Cluster, hub: HubServer, namespace: str, tiny: Tiny, tmp_path: Path
) -> None:
    """The whole life. Real data where there is some; then everything that a user and an auditor would look at."""
    data = REAL_FILES / "oasst1_en_trees.jsonl"
    jobs = Jobs.ready(operator, namespace, data if data.exists() else tiny.dialogues)
    jobs.apply("whole")
    jobs.wait_for("whole", "Prepared", seconds=300)
    jobs.wait("whole", lambda status: status.get("progress", {}).get("step", 0) >= 1)
    workers = [pod for pod in jobs.objects("pods") if pod["metadata"]["labels"].get("ray.io/node-type") == "worker"]
    assert len({pod["spec"]["nodeName"] for pod in workers}) == 2, "one worker pod a node"
    logs = operator.kubectl("logs", f"--namespace={namespace}", "--selector=finetune.dev/job=whole", "--all-containers", "--tail=-1")

    told = operator.kubectl(
        "wait", "finetunejob/whole", "--for=condition=Succeeded", "--timeout=600s", f"--namespace={namespace}", timeout_seconds=610
    )
    assert told.strip() == "finetunejob.finetune.dev/whole condition met", jobs.told("whole")
    status = jobs.get("whole")["status"]
    assert [attempt["outcome"] for attempt in status["attempts"]] == ["Finished"]
    assert status["checkpoints"]["latest"]["step"] == 6
    assert status["publication"]["repository"].endswith("org/whole")

    stored = jobs.stored("whole")
    parts = [key for key in stored if key.startswith("checkpoints/step-00000006/")]
    assert {key.rsplit("/", 1)[1] for key in parts} == {"manifest.json", "rank-00000.bin", "rank-00001.bin"}

    published = hub.repositories["org/whole"].at("main")
    assert published is not None
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= published.files.keys()
    assert status["publication"]["revision"] == published.oid

    table = operator.kubectl("get", "ftj", "whole", "-o=wide", f"--namespace={namespace}").splitlines()
    assert "STAGE" in table[0], table
    assert "Succeeded" in table[1], table
    assert (
        operator.kubectl("get", "events", f"--namespace={namespace}", "--field-selector=involvedObject.kind=FineTuneJob").count("\n") >= 4
    )

    # Nothing of a Secret anywhere but in the Secret.
    everything = json.dumps(jobs.objects("finetunejobs", "finetunereports", "jobs", "rayjobs", "pods", "configmaps", "events"))
    logs += operator.kubectl("logs", "--namespace=finetune-system", "--selector=app.kubernetes.io/name=finetune-operator", "--tail=-1")
    for secret in (HUB_TOKEN, operator.s3.secret_key):
        assert secret not in everything
        assert secret not in logs
    jobs.wait_until_no_ray_pods()


def test_suspended_it_commits_and_gives_its_pods_back_then_goes_on(jobs: Jobs, hub: HubServer) -> None:
    """The operator asks, the driver commits. Deleted and applied again, the job goes on where that ended."""
    jobs.apply("paused", training__maxSteps=40, checkpoints__every={"steps": 1000})
    jobs.wait("paused", lambda status: status.get("progress", {}).get("step", 0) >= 2)
    patch = '{"spec":{"suspend":true}}'
    jobs.cluster.kubectl("patch", "finetunejob", "paused", "--type=merge", f"--patch={patch}", f"--namespace={jobs.namespace}")
    jobs.wait_for("paused", "Suspended", seconds=240)
    assert jobs.objects("rayjobs") == []
    first = jobs.get("paused")["status"]
    assert [attempt["outcome"] for attempt in first["attempts"]] == ["Stopped"]
    committed = first["checkpoints"]["latest"]["step"]
    assert 2 <= committed < 40
    assert f"checkpoints/step-{committed:08d}" in " ".join(jobs.stored("paused"))

    jobs.cluster.kubectl("delete", "finetunejob", "paused", f"--namespace={jobs.namespace}")
    jobs.apply("paused", training__maxSteps=40, checkpoints__every={"steps": 1000})
    done = jobs.wait("paused", lambda status: any(c["type"] == "Succeeded" and c["status"] == "True" for c in status.get("conditions", [])))
    assert done["status"]["checkpoints"]["latest"]["step"] == 40
    metrics = jobs.cluster.s3.client().get_object(Bucket="finetune", Key=f"{jobs.namespace}/paused/metrics.jsonl")["Body"].read().decode()
    steps = [json.loads(line)["step"] for line in metrics.splitlines() if json.loads(line)["kind"] == "StepDone"]
    assert steps == list(range(1, 41)), "every step once: the second life began where the first ended"


# A model of 70 billion parameters on one 40 GB card.
TOO_LARGE = {
    "workers": {"nodes": 1, "gpusPerNode": 1, "accelerator": "nvidia-a100-40gb"},
    "model__shape": {
        "architecture": "LlamaForCausalLM",
        "layers": 80,
        "hiddenSize": 8192,
        "intermediateSize": 28672,
        "attentionHeads": 64,
        "keyValueHeads": 8,
        "headSize": 128,
        "vocabularySize": 32000,
        "positions": 4096,
        "parameters": 68_976_648_192,
    },
}


WRONG: dict[str, tuple[dict[str, object], list[str]]] = {
    "no-secret": ({"checkpoints__credentialsSecret": {"name": "absent"}}, ["Secret absent"]),
    "no-s3": ({"checkpoints__endpoint": "http://10.244.0.1:1"}, ["10.244.0.1:1"]),
    "no-bucket": ({"checkpoints__storage": "s3://missing-bucket/x"}, ["missing-bucket"]),
    "too-large": (TOO_LARGE, ["GiB"]),
}


def test_wrong_input_ends_in_a_condition_and_no_training_pod(jobs: Jobs) -> None:
    """A Secret or bucket that isn't there, an endpoint that is silent, a model that can't fit: told, and no RayJob is made."""
    for name, (changes, _) in WRONG.items():
        jobs.apply(name, **changes)
    for name, (_, words) in WRONG.items():
        jobs.wait_until_told(name, words)
    assert jobs.objects("rayjobs") == []
    assert [pod for pod in jobs.objects("pods") if pod["metadata"]["labels"].get("finetune.dev/stage") == "training"] == []
