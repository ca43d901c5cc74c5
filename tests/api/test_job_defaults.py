"""finetune_api/job_defaults.py: what a job is given where it says nothing, and what is wrong with defaults."""

from typing import Any

import pytest
from tests.api.jobs import job

from finetune_api.errors import InvalidSpec
from finetune_api.job_defaults import NO_DEFAULTS, JobDefaults, over, parse_defaults, with_defaults
from finetune_api.merged_pods import evaluation_pod
from finetune_api.training_run import run_identity

TEAM = """
workers:
  labels: {team: nlp, cost: gpu}
  tolerations: [{key: gpu, operator: Exists}]
  nodeSelector: {pool: gpus}
  env: [{name: HTTPS_PROXY, value: "http://proxy:3128"}, {name: A, value: theirs}]
  volumes:
  - {name: ca, mountPath: /ca, configMap: {name: corporate-ca}}
  resources: {requests: {cpu: "8", memory: 64Gi}, limits: {memory: 64Gi}}
  queueName: gpus
  imagePullSecrets: [{name: registry}]
  gpuResource: amd.com/gpu
cpuPods:
  env: [{name: HTTPS_PROXY, value: "http://proxy:3128"}]
checkpoints: {storage: "s3://team/jobs/", endpoint: "http://s3:9000", credentialsSecret: {name: s3}}
accelerators:
  NVIDIA-A100-SXM4-80GB: {nvidia.com/gpu.product: A100}
"""


def filled(text: str = TEAM, **spec: Any) -> Any:
    return with_defaults(job(**spec), parse_defaults(text, "defaults")).spec


def test_a_job_that_says_nothing_gets_them_all():
    spec = filled()
    workers = spec.workers
    assert workers.labels == {"team": "nlp", "cost": "gpu"}
    assert [toleration.key for toleration in workers.tolerations] == ["gpu"]
    assert {variable.name: variable.value for variable in workers.env} == {"HTTPS_PROXY": "http://proxy:3128", "A": "theirs"}
    assert (workers.queue_name, workers.gpu, workers.resources.limits) == ("gpus", "amd.com/gpu", {"memory": "64Gi"})
    # mapping()'s job is for an A100 of 80 GB, in another spelling.
    assert workers.node_selector == {"pool": "gpus", "nvidia.com/gpu.product": "A100"}
    assert [variable.name for variable in spec.cpu_pods.env] == ["HTTPS_PROXY"]
    assert (spec.checkpoints.storage, spec.checkpoints.endpoint) == ("s3://team/jobs/default/job", "http://s3:9000")


def test_what_the_job_says_wins():
    spec = filled(
        workers={
            "labels": {"cost": "none"},
            "env": [{"name": "A", "value": "own"}],
            "volumes": [{"name": "own", "mountPath": "/ca", "emptyDir": {}}],
            "resources": {"limits": {"memory": "8Gi"}},
            "queueName": "own",
            "nodeSelector": {"pool": "own", "nvidia.com/gpu.product": "H100"},
            "gpuResource": "nvidia.com/gpu",
        },
        checkpoints={"storage": "s3://own/x"},
    )
    workers = spec.workers
    assert workers.labels == {"team": "nlp", "cost": "none"}
    assert [(variable.name, variable.value) for variable in workers.env] == [("A", "own"), ("HTTPS_PROXY", "http://proxy:3128")]
    assert [volume.name for volume in workers.volumes] == ["own"]
    # A default request above the job's own limit would be refused.
    assert (workers.resources.requests, workers.resources.limits) == ({"cpu": "8"}, {"memory": "8Gi"})
    assert (workers.queue_name, workers.gpu) == ("own", "nvidia.com/gpu")
    assert workers.node_selector == {"pool": "own", "nvidia.com/gpu.product": "H100"}
    # The settings of another server are none of its own.
    assert (spec.checkpoints.storage, spec.checkpoints.endpoint, spec.checkpoints.credentials_secret) == ("s3://own/x", None, None)


def test_a_job_on_cpus_gets_no_labels_of_gpu_nodes():
    assert filled(workers={"device": "cpu", "gpusPerNode": 0, "workersPerNode": 1}).workers.node_selector == {"pool": "gpus"}


def test_an_evaluation_with_gpus_runs_where_the_workers_may():
    """On nodes with such GPUs and past their taints; all else is of the CPU pods, and what the job says wins."""
    asked = {"samples": {}, "pod": {"gpus": 1, "nodeSelector": {"pool": "own"}}}
    pod = evaluation_pod(filled(evaluation=asked))
    assert pod.node_selector == {"pool": "own", "nvidia.com/gpu.product": "A100"}
    assert [toleration.key for toleration in pod.tolerations] == ["gpu"]
    assert ([variable.name for variable in pod.env], pod.resources.requests, pod.queue_name) == (["HTTPS_PROXY"], {}, None)


@pytest.mark.parametrize("pod", [{"gpus": 0}, {}, None], ids=str)
def test_one_without_gpus_runs_where_cpu_pods_do(pod):
    found = evaluation_pod(filled(evaluation={"samples": {}} | ({"pod": pod} if pod is not None else {})))
    assert (found.gpus, found.node_selector, found.tolerations) == (0, {}, [])
    assert [variable.name for variable in found.env] == ["HTTPS_PROXY"]


def test_the_queue_of_a_jobs_labels_is_that_of_all_its_pods():
    labelled = job()
    labels = {"kueue.x-k8s.io/queue-name": "team", "kueue.x-k8s.io/priority-class": "high", "other": "x"}
    labelled = labelled.model_copy(update={"metadata": labelled.metadata.model_copy(update={"labels": labels})})
    spec = with_defaults(labelled, parse_defaults(TEAM, "defaults")).spec
    for pods in (spec.workers, spec.cpu_pods):
        assert pods.queue_name == "team"
        assert pods.labels["kueue.x-k8s.io/priority-class"] == "high"
        assert "other" not in pods.labels


def test_a_namespaces_defaults_win_over_the_charts():
    own = parse_defaults("{workers: {labels: {team: vision}, queueName: mine}, checkpoints: {storage: 's3://mine'}}", "own")
    both = over(own, parse_defaults(TEAM, "chart"))
    assert both.workers.labels == {"team": "vision", "cost": "gpu"}
    assert both.workers.queue_name == "mine"
    assert (both.checkpoints.storage, both.checkpoints.endpoint) == ("s3://mine", None)
    assert over(NO_DEFAULTS, own) == own


def test_without_defaults_a_job_is_as_it_was():
    plain = job()
    assert with_defaults(plain, NO_DEFAULTS) == plain


def test_they_are_kept_as_they_are_read():
    read = parse_defaults(TEAM, "defaults")
    assert JobDefaults.model_validate(read.to_json(), by_alias=True, by_name=False) == read
    assert NO_DEFAULTS.to_json() == {}


def test_defaults_change_nobodys_identity():
    assert run_identity(with_defaults(job(), parse_defaults(TEAM, "defaults"))) == run_identity(job())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workers: {tolerationz: []}", "ConfigMap x: workers.tolerationz: there is no such field; did you mean tolerations?"),
        ("workers: {nodes: 2}", "ConfigMap x: workers.nodes: there is no such field"),
        ("cpuPods: {env: [{name: HF_TOKEN, value: hf_x}]}", "ConfigMap x: cpuPods.env[0].value: HF_TOKEN by its name is a secret"),
        ("workers: {resources: {limits: {nvidia.com/gpu: '1'}}}", "workers.resources.limits: nvidia.com/gpu is set by the operator"),
        ("workers: [", "ConfigMap x"),
        ("just words", "ConfigMap x: holds no mapping; its keys are workers"),
        (f"workers: {{annotations: {{a: {'x' * 17_000}}}}}", "ConfigMap x: has 17"),
    ],
)
def test_what_is_wrong_is_told_with_where_it_stands(text, words):
    with pytest.raises(InvalidSpec) as caught:
        parse_defaults(text, "ConfigMap x")
    assert words in str(caught.value)
