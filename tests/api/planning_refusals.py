"""What only planning refuses: well-formed jobs that the API server accepts, and that end as Planned=False before any pod exists.

One row a case. The contract's tests try each with `cluster_plan`, the operator's as a condition on a real API server.
"""

from dataclasses import dataclass
from typing import Any, Final

from finetune_api.reasons import Reason

STORAGE: Final = {"storage": "s3://bucket/prefix"}
_CLAIM: Final = {"name": "data", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "data"}}
_SHAPE: Final = {
    "architecture": "GPTBigCodeForCausalLM",
    "layers": 40,
    "hiddenSize": 6144,
    "intermediateSize": 24576,
    "attentionHeads": 48,
    "keyValueHeads": 1,
    "headSize": 128,
    "vocabularySize": 49152,
    "positions": 8192,
    "parameters": 15_517_456_384,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`spec` is merged into a small valid one (`tests.api.jobs.mapping`, with s3:// storage); the message holds each of `words`."""

    name: str
    spec: dict[str, Any]
    words: tuple[str, ...]
    reason: str = Reason.INVALID_SPEC


def _volume(**source: Any) -> dict[str, Any]:
    return {"name": "data", "mountPath": "/data", **source}


REFUSALS: Final = (
    # ---- arithmetic
    Refusal(
        name="batch",
        spec={"training": {"globalBatchSize": 100}},
        words=("spec.training.globalBatchSize: 100 is not a multiple of microBatchSize*worldSize=32", "use 96 or 128"),
    ),
    Refusal(
        name="memory",
        spec={"model": {"shape": _SHAPE}, "workers": {"gpusPerNode": 1}},
        words=("spec.", "GiB", "nvidia-a100-80gb"),
    ),
    Refusal(
        name="length",
        spec={"model": {"shape": _SHAPE}, "training": {"maxSequenceLength": 8193}},
        words=("spec.training.maxSequenceLength: 8193 is more than the 8192 positions of the model", "use at most 8192"),
    ),
    Refusal(
        name="warmup",
        spec={"training": {"maxSteps": 10, "optimizer": {"warmupSteps": 11}}},
        words=("spec.training.optimizer.warmupSteps: 11 is more than the run's 10 steps", "use at most 10"),
    ),
    Refusal(
        name="precision",
        spec={"training": {"precision": "bf16"}, "workers": {"accelerator": "nvidia-tesla-v100"}},
        words=("spec.training.precision: bf16 is not in", "use auto, fp32 or fp16"),
    ),
    # ---- contradictions
    Refusal(
        name="gpu-hours",
        spec={"budget": {"gpuHours": 64}, "workers": {"device": "cpu"}},
        words=("spec.budget.gpuHours: is given, and workers on CPUs hold no GPU", "use budget.activeDeadlineSeconds"),
    ),
    Refusal(
        name="random-without-directory",
        spec={"model": {"initialization": "random"}},
        words=("spec.model.initialization: random needs a folder",),
    ),
    Refusal(
        name="best-without-evaluation",
        spec={"publish": {"checkpoint": "best"}},
        words=("spec.publish.checkpoint: best needs an evaluation loss", "dataset.evaluation.fraction: 0.1"),
    ),
    Refusal(
        name="no-worker",
        spec={"workers": {"gpusPerNode": 0, "device": "cpu"}},
        words=("spec.workers.workersPerNode: is missing, and gpusPerNode is 0",),
    ),
    Refusal(
        name="gpu-without-gpus",
        spec={"workers": {"gpusPerNode": 0, "device": "gpu"}},
        words=("spec.workers.gpusPerNode: 0 leaves device: gpu without GPUs",),
    ),
    # ---- evaluation
    Refusal(
        name="tasks-on-no-volume",
        spec={"evaluation": {"tasks": ["arc_challenge"], "taskData": "/tasks"}},
        words=('spec.evaluation.taskData: "/tasks" is on no volume of evaluation.pod', "in spec.evaluation.pod.volumes"),
    ),
    Refusal(
        name="tasks-relative-to-nothing",
        spec={"evaluation": {"tasks": ["arc_challenge"], "taskData": "benchmarks"}},
        words=('spec.evaluation.taskData: "./benchmarks" is relative to the job file',),
    ),
    Refusal(
        name="prompts-on-no-volume",
        spec={"evaluation": {"judge": {"model": "m", "prompts": "/data/p.jsonl"}}},
        words=('spec.evaluation.judge.prompts: "/data/p.jsonl" is on no volume of evaluation.pod',),
    ),
    Refusal(
        name="prompts-at-an-address",
        spec={"evaluation": {"samples": {"prompts": "s3://bucket/p.jsonl"}}},
        words=("spec.evaluation.samples.prompts: is an address", "write ./path, /path or org/name"),
    ),
    Refusal(
        name="key-in-the-judges-address",
        spec={"evaluation": {"judge": {"model": "m", "baseUrl": "https://user:HIDDEN@host/v1"}}},
        words=("spec.evaluation.judge.baseUrl: holds a user name or key", "put keys into spec.evaluation.judge.apiKeySecret"),
    ),
    Refusal(
        name="gpus-of-evaluation-as-resources",
        spec={"evaluation": {"samples": {}, "pod": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}},
        words=("spec.evaluation.pod.resources.limits: nvidia.com/gpu is set by the operator", "evaluation.pod.gpus says how many"),
    ),
    Refusal(
        name="evaluation-elsewhere",
        spec={
            "evaluation": {
                "samples": {},
                "pod": {"volumes": [{"name": "o", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "other"}}]},
            },
            "checkpoints": {"storage": "/data/x"},
            "workers": {"volumes": [{"name": "d", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "data"}}]},
            "cpuPods": {"volumes": [{"name": "d", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "data"}}]},
        },
        words=("is on claim data (mounted at /data) in cpuPods, and on claim other (mounted at /data) in evaluation.pod",),
    ),
    # ---- names
    Refusal(name="bucket", spec={"model": {"name": "s3://B/x"}}, words=('spec.model.name: "s3://B/x" is no address of object storage',)),
    Refusal(name="hub-id", spec={"model": {"name": "a/b/c"}}, words=('spec.model.name: "a/b/c" is neither a Hub id nor a path',)),
    Refusal(
        name="file-as-hub-id",
        spec={"dataset": {"sources": [{"path": "rows.jsonl"}]}},
        words=('spec.dataset.sources[0].path: "rows.jsonl" looks like a file',),
    ),
    Refusal(
        name="key-in-address",
        spec={"checkpoints": {"storage": "s3://AKIA:HIDDEN@bucket/p"}},
        words=("spec.checkpoints.storage: holds a user name or key", "spec.checkpoints.credentialsSecret"),
    ),
    # ---- what only a cluster asks for
    Refusal(
        name="no-storage",
        spec={"checkpoints": {"storage": None}},
        words=("spec.checkpoints.storage: is missing, and a pod's own disk goes with the pod", "s3://bucket/prefix"),
    ),
    Refusal(
        name="relative-storage",
        spec={"checkpoints": {"storage": "runs/x"}},
        words=('spec.checkpoints.storage: "runs/x" is relative to the job file, and pods have none',),
    ),
    Refusal(
        name="storage-on-no-volume",
        spec={"checkpoints": {"storage": "/data/x"}, "workers": {"volumes": [_CLAIM]}},
        words=('spec.checkpoints.storage: "/data/x" is on no volume of cpuPods', "spec.cpuPods.volumes"),
    ),
    Refusal(
        name="storage-on-scratch",
        spec={
            "checkpoints": {"storage": "/data/x"},
            "workers": {"volumes": [_volume(emptyDir={})]},
            "cpuPods": {"volumes": [_CLAIM]},
        },
        words=('"/data/x" is on volume data of workers, which does not outlive a pod', "use a persistentVolumeClaim"),
    ),
    Refusal(
        name="storage-read-only",
        spec={
            "checkpoints": {"storage": "/data/x"},
            "workers": {"volumes": [{**_CLAIM, "readOnly": True}]},
            "cpuPods": {"volumes": [_CLAIM]},
        },
        words=('"/data/x" is on volume data of workers, which is readOnly', "remove readOnly"),
    ),
    Refusal(
        name="storage-on-two-claims",
        spec={
            "checkpoints": {"storage": "/data/x"},
            "workers": {"volumes": [_CLAIM]},
            "cpuPods": {"volumes": [_volume(persistentVolumeClaim={"claimName": "other"})]},
        },
        words=('"/data/x" is on claim data (mounted at /data) in the workers, and on claim other (mounted at /data) in cpuPods',),
    ),
    Refusal(
        name="storage-at-two-places-of-a-claim",
        spec={
            "checkpoints": {"storage": "/data/x/run"},
            "workers": {"volumes": [_CLAIM]},
            "cpuPods": {"volumes": [{**_CLAIM, "mountPath": "/data/x"}]},
        },
        words=("on claim data (mounted at /data) in the workers, and on claim data (mounted at /data/x) in cpuPods",),
    ),
    Refusal(
        name="storage-leaves-its-volume",
        spec={"checkpoints": {"storage": "/data/../x"}, "workers": {"volumes": [_CLAIM]}, "cpuPods": {"volumes": [_CLAIM]}},
        words=('"/data/../x" is on no volume of workers', '"/data/../x" is on no volume of cpuPods'),
    ),
    Refusal(
        name="relative-model",
        spec={"model": {"name": "./model"}},
        words=('spec.model.name: "./model" is relative to the job file, and pods have none', "use a Hub id"),
    ),
    Refusal(
        name="model-on-no-volume",
        spec={"model": {"name": "/models/x"}},
        words=('spec.model.name: "/models/x" is on no volume of workers', "mount a persistentVolumeClaim above it"),
    ),
    Refusal(
        name="relative-data",
        spec={"dataset": {"sources": [{"path": "./rows.jsonl"}]}},
        words=('spec.dataset.sources[0].path: "./rows.jsonl" is relative to the job file',),
    ),
    Refusal(
        name="data-on-scratch",
        spec={"dataset": {"sources": [{"path": "/data/rows.jsonl"}]}, "cpuPods": {"volumes": [_volume(emptyDir={})]}},
        words=('"/data/rows.jsonl" is on volume data of cpuPods, which is empty when a pod starts',),
    ),
    Refusal(
        name="relative-publication",
        spec={"publish": {"directory": {"path": "published"}}},
        words=('spec.publish.directory.path: "published" is relative to the job file',),
    ),
    Refusal(
        name="publication-on-no-volume",
        spec={"publish": {"directory": {"path": "/published"}}},
        words=('spec.publish.directory.path: "/published" is on no volume of cpuPods',),
    ),
    Refusal(
        name="no-hub-token",
        spec={"publish": {"hub": {"repository": "org/model"}}},
        words=("spec.publish.hub.tokenSecret: is missing", "name a Secret with it"),
    ),
    Refusal(
        name="volume-twice",
        spec={"workers": {"volumes": [_CLAIM, {**_CLAIM, "mountPath": "/other"}]}},
        words=("spec.workers.volumes[1].name: data is the name of another volume too",),
    ),
    Refusal(
        name="mount-twice",
        spec={"cpuPods": {"volumes": [_CLAIM, {**_CLAIM, "name": "other", "mountPath": "/data/"}]}},
        words=("spec.cpuPods.volumes[1].mountPath: /data is where another volume is mounted",),
    ),
    Refusal(
        name="our-volume-name",
        spec={"workers": {"volumes": [{**_CLAIM, "name": "finetune-run"}]}},
        words=("spec.workers.volumes[0].name: finetune-run begins with finetune-",),
    ),
    Refusal(
        name="our-mount",
        spec={"workers": {"volumes": [{**_CLAIM, "mountPath": "/etc"}]}},
        words=("spec.workers.volumes[0].mountPath: /etc would hide /etc/finetune",),
    ),
    Refusal(
        name="our-cache",
        spec={"workers": {"volumes": [{**_CLAIM, "mountPath": "/var/lib/finetune/model-cache"}]}},
        words=("spec.workers.volumes[0].mountPath: /var/lib/finetune/model-cache would hide",),
    ),
    Refusal(
        name="our-variable",
        spec={"workers": {"env": [{"name": "FINETUNE_RUN", "value": "x"}]}},
        words=("spec.workers.env[0].name: FINETUNE_RUN is set by the operator or by KubeRay; remove it",),
    ),
    Refusal(
        name="kuberay-variable",
        spec={"cpuPods": {"env": [{"name": "RAY_AUTH_MODE", "value": "disabled"}]}},
        words=("spec.cpuPods.env[0].name: RAY_AUTH_MODE is set by the operator or by KubeRay",),
    ),
    Refusal(
        name="variable-twice",
        spec={"workers": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
        words=("spec.workers.env[1].name: A is there twice; keep one",),
    ),
    Refusal(
        name="key-of-the-operator",
        spec={"workers": {"labels": {"finetune.dev/job": "other"}}},
        words=("spec.workers.labels: finetune.dev/job is set by the operator",),
    ),
    Refusal(
        name="queue-as-a-label",
        spec={"cpuPods": {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}}},
        words=("spec.cpuPods.labels: kueue.x-k8s.io/queue-name is set by the operator; remove it; spec.cpuPods.queueName names the queue",),
    ),
    Refusal(
        name="key-that-is-none",
        spec={"workers": {"annotations": {"a b": "c"}}},
        words=("spec.workers.annotations: a b is no key of a label or annotation",),
    ),
    Refusal(
        name="job-that-fits-no-pod",
        spec={
            "cpuPods": {"annotations": {f"a{number}": "x" * 4_096 for number in range(32)}},
            "template": {"name": "jinja", "jinja": "{{ messages }}" + "x" * 65_000},
            "dataset": {"sources": [{"path": f"s3://bucket/{number}/{'x' * 900}"} for number in range(64)]},
        },
        words=("spec: has 25", "and pods can be given 229376; shorten lists"),
    ),
    Refusal(
        name="gpu-as-a-resource",
        spec={"workers": {"resources": {"limits": {"nvidia.com/gpu": "8"}}}},
        words=("spec.workers.resources.limits: nvidia.com/gpu is set by the operator", "workers.gpusPerNode"),
    ),
    Refusal(
        name="slice-as-a-resource",
        spec={"workers": {"gpuResource": "nvidia.com/mig-1g.10gb", "resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}},
        words=("spec.workers.resources.limits: nvidia.com/mig-1g.10gb is set by the operator", "workers.gpuResource"),
    ),
    Refusal(
        name="request-above-limit",
        spec={"workers": {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1500M"}}}},
        words=("spec.workers.resources.requests: memory: 2Gi is more than the limit of 1500M",),
    ),
    Refusal(
        name="shared-device",
        spec={"workers": {"resources": {"requests": {"vpc.amazonaws.com/efa": "4"}}}},
        words=("vpc.amazonaws.com/efa: 4 needs the same limit",),
    ),
)
