"""All manifests of a job, and their parts, for tests that look at every one of them."""

from collections.abc import Iterator
from typing import Any

from tests.operator.builders import finetunejob, owner, settings, training_run

from finetune_api.finetunejob import FineTuneJob
from finetune_operator.resources.access import role, role_binding, service_account
from finetune_operator.resources.evaluation_job import evaluation_job
from finetune_operator.resources.preparation_job import preparation_job
from finetune_operator.resources.publication_job import publication_job
from finetune_operator.resources.rayjob import rayjob
from finetune_operator.resources.report import report
from finetune_operator.resources.run_config_map import run_config_map

Json = dict[str, Any]
MARK = "mark"


def manifests(job: FineTuneJob, **changes: Any) -> dict[str, Json]:
    """Every object of the job, by a word for it."""
    run, whose, given = training_run(job), owner(job.metadata.name), settings(**changes)
    return {
        "preparation": preparation_job(job, whose, given),
        "run": run_config_map(run.to_json(), whose),
        "report": report(job, whose),
        "service account": service_account(whose),
        "role": role(whose),
        "role binding": role_binding(job, whose),
        "rayjob": rayjob(job, run.digest, 1, whose, given),
        "evaluation": evaluation_job(run.identity, run.digest, job, whose, given),
        "publication": publication_job(run.digest, job, whose, given),
    }


def templates(job: FineTuneJob, **changes: Any) -> dict[str, Json]:
    """Every pod template of the job."""
    made = manifests(job, **changes)
    ray = made["rayjob"]["spec"]
    return {
        "preparation": made["preparation"]["spec"]["template"],
        "head": ray["rayClusterSpec"]["headGroupSpec"]["template"],
        "workers": ray["rayClusterSpec"]["workerGroupSpecs"][0]["template"],
        "submitter": ray["submitterPodTemplate"],
        "evaluation": made["evaluation"]["spec"]["template"],
        "publication": made["publication"]["spec"]["template"],
    }


def walk(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value below this one, with its path."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from walk(inner, f"{path}.{key}")


def variables(template: Json) -> dict[str, str]:
    """The first container's environment, as far as values stand there."""
    variables = template["spec"]["containers"][0].get("env", [])
    return {variable["name"]: variable["value"] for variable in variables if "valueFrom" not in variable}


def mounts(template: Json) -> dict[str, Json]:
    """The first container's mounts: path -> volume."""
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    return {mount["mountPath"]: volumes[mount["name"]] for mount in template["spec"]["containers"][0]["volumeMounts"]}


def plain_job() -> FineTuneJob:
    """As little as a job needs."""
    return finetunejob()


def full_job() -> FineTuneJob:
    """Every field that has to do with pods is set, every text in it holds MARK where its form allows it."""
    secret = {"name": f"{MARK}-secret", "key": f"{MARK}-key"}
    return finetunejob(
        model={"name": f"{MARK}/model", "revision": MARK, "tokenSecret": secret, "cache": {"claimName": f"{MARK}-cache"}},
        dataset={
            "sources": [
                {"path": f"{MARK}/data", "split": MARK, "tokenSecret": {"name": f"{MARK}-data"}},
                {"path": f"s3://{MARK}/data", "credentialsSecret": {"name": f"{MARK}-s3"}},
            ],
        },
        template={"systemText": f"$({MARK}) `{MARK}`; {MARK}"},
        workers={"topologySpreadConstraints": [SPREAD], "gpuResource": f"{MARK}.example/gpu", **_pod_settings("w")},
        cpuPods=_pod_settings("c"),
        checkpoints={
            "storage": f"s3://{MARK}/prefix",
            "endpoint": f"http://{MARK}:9000",
            "region": MARK,
            "credentialsSecret": {"name": f"{MARK}-s3"},
            "caBundle": {"name": f"{MARK}-ca"},
        },
        evaluation={
            "tasks": [MARK],
            "taskData": f"/{MARK}/c/claim",
            "judge": {
                "baseUrl": f"https://{MARK}/v1",
                "model": MARK,
                "apiKeySecret": {"name": f"{MARK}-judge"},
                "prompts": f"{MARK}/prompts",
            },
            "samples": {"prompts": f"/{MARK}/c/claim/prompts.jsonl"},
            "pod": {"gpus": 1},  # all else is of the CPU pods
        },
        publish={"hub": {"repository": f"{MARK}/out", "message": MARK, "tokenSecret": {"name": f"{MARK}-hub"}}},
    )


VALUE_SOURCES: list[Json] = [
    {"secretKeyRef": {"name": MARK, "key": MARK, "optional": True}},
    {"configMapKeyRef": {"name": MARK, "key": MARK}},
    {"fieldRef": {"fieldPath": f"metadata.labels['{MARK}']"}},
    {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}},
]
ENV_SOURCES: list[Json] = [{"prefix": MARK, "secretRef": {"name": MARK, "optional": True}}, {"configMapRef": {"name": MARK}}]
# As Kubernetes has them, every field set that has no default.
_LABELS: Json = {"matchLabels": {MARK: MARK}, "matchExpressions": [{"key": MARK, "operator": "NotIn", "values": [MARK]}]}
_NODES: Json = {"matchExpressions": [{"key": MARK, "operator": "In", "values": [MARK]}, {"key": MARK, "operator": "Exists"}]}
_NEAR: Json = {
    "topologyKey": MARK,
    "labelSelector": _LABELS,
    "namespaces": [MARK],
    "namespaceSelector": {},
    "matchLabelKeys": [MARK],
    "mismatchLabelKeys": [f"{MARK}2"],
}
_PODS: Json = {
    "requiredDuringSchedulingIgnoredDuringExecution": [_NEAR],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": _NEAR}],
}
AFFINITY: Json = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [_NODES | {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [MARK]}]}]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": _NODES}],
    },
    "podAffinity": _PODS,
    "podAntiAffinity": _PODS,
}
SPREAD: Json = {
    "maxSkew": 1,
    "topologyKey": MARK,
    "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": _LABELS,
    "minDomains": 2,
    "nodeAffinityPolicy": "Ignore",
    "nodeTaintsPolicy": "Honor",
    "matchLabelKeys": [MARK],
}


def _pod_settings(letter: str) -> Json:
    """The settings of one kind of pod, every field given."""
    return {
        "image": f"{MARK}/{letter}:1",
        "imagePullSecrets": [{"name": f"{MARK}-{letter}-registry"}],
        "labels": {f"{MARK}.example/{letter}": MARK},
        "annotations": {f"{MARK}.example/{letter}": f"$({MARK})"},
        "queueName": f"{MARK}-queue",
        "resources": {"requests": {"cpu": "4"}, "limits": {"memory": "8Gi", f"{MARK}.example/rdma": "1"}},
        "env": [
            {"name": f"{MARK}_{letter}", "value": f"$({MARK}) $(id) ; {MARK}"},
            *({"name": f"{MARK}_{letter}_{index}", "valueFrom": source} for index, source in enumerate(VALUE_SOURCES)),
        ],
        "envFrom": ENV_SOURCES,
        "nodeSelector": {MARK: MARK},
        "affinity": AFFINITY,
        "tolerations": [{"key": MARK, "operator": "Equal", "value": MARK, "effect": "NoSchedule"}],
        "schedulerName": MARK,
        "runtimeClassName": MARK,
        "priorityClassName": MARK,
        "serviceAccountName": f"{MARK}-{letter}",
        "volumes": [
            {
                "name": f"{MARK}-{letter}-claim",
                "mountPath": f"/{MARK}/{letter}/claim",
                "subPath": f"{MARK}/{letter}",
                "persistentVolumeClaim": {"claimName": MARK},
            },
            {
                "name": f"{MARK}-{letter}-csi",
                "mountPath": f"/{MARK}/{letter}/csi",
                "csi": {
                    "driver": f"{MARK}.example",
                    "fsType": MARK,
                    "volumeAttributes": {MARK: MARK},
                    "nodePublishSecretRef": {"name": MARK},
                },
            },
            {"name": f"{MARK}-{letter}-own", "mountPath": f"/{MARK}/{letter}/own", "ephemeral": {"size": "1Gi", "storageClassName": MARK}},
            {
                "name": f"{MARK}-{letter}-empty",
                "mountPath": f"/{MARK}/{letter}/empty",
                "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"},
            },
            {"name": f"{MARK}-{letter}-map", "mountPath": f"/{MARK}/{letter}/map", "configMap": {"name": MARK}},
            {"name": f"{MARK}-{letter}-secret", "mountPath": f"/{MARK}/{letter}/secret", "secret": {"name": MARK}, "readOnly": True},
        ],
    }
