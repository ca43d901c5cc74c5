"""The ValidatingAdmissionPolicies that lie with the samples, as a platform team applies them, on a real API server."""

import json
import subprocess
import time
from typing import Any

import pytest
import yaml
from charts.generate import ROOT
from tests.chart.administrator import KUBECTL, SECONDS, Administrator, restricted_namespace

pytestmark = pytest.mark.control_plane

ALLOWED = "registry.example.com/finetune/trainer:1"


def job(namespace: str, name: str = "j", *, labels: dict[str, str] | None = None, **workers: Any) -> str:
    """A sample with these workers."""
    manifest = yaml.safe_load((ROOT / "manifests/samples/finetunejob.yaml").read_text(encoding="utf-8"))
    manifest["metadata"] = {"name": name, "namespace": namespace, "labels": labels or {}}
    manifest["spec"]["workers"] = manifest["spec"].get("workers", {}) | workers
    return json.dumps(manifest)


def evaluated(manifest: str, **pod: Any) -> str:
    """The job with an evaluation in such a pod."""
    found = json.loads(manifest)
    found["spec"]["evaluation"] = {"samples": {}, "pod": pod}
    return json.dumps(found)


def tried(admin: Administrator, verb: str, manifest: str) -> "subprocess.CompletedProcess[str]":
    return admin.run(KUBECTL, verb, "-f", "-", "--dry-run=server", stdin=manifest)


def refused(admin: Administrator, verb: str, manifest: str) -> str:
    """Why it isn't let in."""
    done = tried(admin, verb, manifest)
    assert done.returncode != 0, done.stdout
    return done.stderr


def admitted(admin: Administrator, verb: str, manifest: str) -> None:
    done = tried(admin, verb, manifest)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def policies(admin: Administrator) -> Administrator:
    """The CRDs, the policies, and a namespace for each; a job that was there before them."""
    admin.kubectl("apply", "--server-side", "-f", ROOT / "manifests/crd")
    admin.wait_until_cached("finetunejobs")
    admin.wait_until_cached("finetunejobs")
    for name in ("free", "limited", "queued", "odd"):
        restricted_namespace(admin, name)
    admin.kubectl("create", "-f", "-", stdin=job("limited", "before", gpusPerNode=8, image="docker.io/someone/trainer:1"))
    admin.kubectl("label", "namespace", "limited", "finetune.dev/gpus-per-job=4")
    admin.kubectl("label", "namespace", "odd", "finetune.dev/gpus-per-job=many")
    admin.kubectl("label", "namespace", "queued", "finetune.dev/queue=team-gpus")
    admin.kubectl("apply", "--validate=strict", "-k", ROOT / "manifests/policies")
    deadline = time.monotonic() + SECONDS
    for probe in (job("limited", gpusPerNode=8), job("queued"), job("free", image="docker.io/x")):
        while tried(admin, "create", probe).returncode == 0:  # a policy takes effect when the API server has heard of it
            assert time.monotonic() < deadline, "the policies refuse nothing"
            time.sleep(0.5)
    return admin


def test_the_api_server_finds_no_fault_with_an_expression(policies: Administrator) -> None:
    found = json.loads(policies.kubectl("get", "validatingadmissionpolicies", "-o", "json"))["items"]
    ours = [policy for policy in found if policy["metadata"]["name"].startswith("finetune-")]
    deadline = time.monotonic() + SECONDS
    for policy in ours:
        name = policy["metadata"]["name"]
        while "typeChecking" not in policy.get("status", {}):
            assert time.monotonic() < deadline, policy
            time.sleep(0.5)
            policy = json.loads(policies.kubectl("get", "validatingadmissionpolicy", name, "-o", "json"))
        assert policy["status"]["typeChecking"].get("expressionWarnings", []) == [], name
    assert len(ours) == 3


def test_gpus_per_job(policies: Administrator) -> None:
    admitted(policies, "create", job("limited", nodes=2, gpusPerNode=2))
    told = refused(policies, "create", job("limited", nodes=2, gpusPerNode=4))
    assert "asks for 8 GPUs (nodes x gpusPerNode); a job of namespace limited may have 4" in told
    admitted(policies, "create", job("free", nodes=2, gpusPerNode=8))
    admitted(policies, "create", evaluated(job("limited", nodes=2, gpusPerNode=2), gpus=4))
    told = refused(policies, "create", evaluated(job("limited", nodes=2, gpusPerNode=2), gpus=8))
    assert "spec.evaluation.pod.gpus is 8; a job of namespace limited may have 4" in told
    assert "may have many" in refused(policies, "create", job("odd", gpusPerNode=1))


def test_a_job_from_before_can_be_suspended_and_not_grow(policies: Administrator) -> None:
    def patched(spec: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
        patch = json.dumps({"spec": spec})
        return policies.run(
            KUBECTL, "patch", "finetunejob", "before", "-n", "limited", "--type=merge", f"--patch={patch}", "--dry-run=server"
        )

    assert patched({"suspend": True}).returncode == 0
    assert "may have 4" in patched({"workers": {"gpusPerNode": 7}}).stderr
    assert "may have 4" in patched({"evaluation": {"samples": {}, "pod": {"gpus": 8}}}).stderr
    assert "docker.io/other/trainer:1" in patched({"workers": {"image": "docker.io/other/trainer:1"}}).stderr


def test_images(policies: Administrator) -> None:
    admitted(policies, "create", job("free"))
    admitted(policies, "create", job("free", image=ALLOWED))
    told = refused(policies, "create", job("free", image="registry.example.com/finetune-of-others/trainer:1"))
    assert "may begin with registry.example.com/finetune/ or mirror.example.com/finetune/; not registry.example.com/finetune-of" in told
    stage = yaml.safe_load(job("free"))
    stage["spec"]["cpuPods"] = {"image": "docker.io/x"}
    assert "not docker.io/x" in refused(policies, "create", json.dumps(stage))
    assert "not docker.io/y" in refused(policies, "create", evaluated(job("free"), image="docker.io/y"))
    admitted(policies, "create", evaluated(job("free"), image=ALLOWED))


def test_a_queue_is_mandatory(policies: Administrator) -> None:
    admitted(policies, "create", job("queued", queueName="team-gpus"))
    admitted(policies, "create", job("queued", labels={"kueue.x-k8s.io/queue-name": "team-gpus"}))
    assert "queueName is absent; namespace queued wants team-gpus" in refused(policies, "create", job("queued"))
    assert "queueName is others" in refused(policies, "create", job("queued", queueName="others"))
    assert "queueName is others" in refused(
        policies, "create", job("queued", queueName="others", labels={"kueue.x-k8s.io/queue-name": "team-gpus"})
    )
    queued = job("queued", queueName="team-gpus")
    admitted(policies, "create", evaluated(queued))
    assert "queueName is absent, and it asks for GPUs" in refused(policies, "create", evaluated(queued, gpus=1))
    admitted(policies, "create", evaluated(queued, gpus=1, queueName="team-gpus"))
    admitted(policies, "create", evaluated(job("queued", labels={"kueue.x-k8s.io/queue-name": "team-gpus"}), gpus=1))
    admitted(policies, "create", job("free"))
