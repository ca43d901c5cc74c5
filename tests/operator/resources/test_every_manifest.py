"""Rules that hold for everything we make, whatever the job."""

import copy
import json
import re
from itertools import chain
from typing import Any

import pytest
from tests.operator.builders import NAMESPACE, UID, finetunejob, owner, training_run
from tests.operator.resources.manifests import (
    AFFINITY,
    ENV_SOURCES,
    MARK,
    VALUE_SOURCES,
    full_job,
    manifests,
    plain_job,
    templates,
    variables,
    walk,
)
from tests.operator.resources.pod_security import violations

from finetune_api.finetunejob import FineTuneJob, FineTuneJobSpec, PodSettings, Workers
from finetune_api.pod_checks import pod_problems
from finetune_operator import keys
from finetune_operator.resources.run_config_map import run_config_map
from finetune_operator.stages.freezing import executed

JOBS = {
    "plain": plain_job(),
    "full": full_job(),
    "one node": finetunejob(workers={"nodes": 1, "gpusPerNode": 1}),
    "cpu": finetunejob(workers={"nodes": 2, "gpusPerNode": 0, "workersPerNode": 2, "device": "cpu"}),
    "longest name": finetunejob("a" * 40),
}
PODS = ("preparation", "head", "workers", "submitter", "evaluation", "publication")
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@pytest.fixture(params=JOBS.values(), ids=JOBS.keys())
def job(request: pytest.FixtureRequest) -> FineTuneJob:
    return request.param


@pytest.mark.parametrize("pod", PODS)
def test_restricted_pod_security_admits_the_pod(job: FineTuneJob, pod: str) -> None:
    assert violations(templates(job)[pod]["spec"]) == []


def _container(**security: Any) -> dict[str, Any]:
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {"name": "c", "securityContext": restricted | security}


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({"containers": [_container()]}, []),
        ({"containers": [{"name": "c"}]}, ["allowPrivilegeEscalation", "runAsNonRoot", "seccompProfile", "capabilities are not dropped"]),
        ({"containers": [_container()], "initContainers": [_container(privileged=True)]}, ["privileged"]),
        ({"containers": [_container(capabilities={"drop": ["ALL"], "add": ["IPC_LOCK"]})]}, ["capabilities are added"]),
        ({"containers": [_container(runAsUser=0)]}, ["runs as root"]),
        ({"containers": [_container(procMount="Unmasked")]}, ["procMount"]),
        ({"containers": [_container() | {"ports": [{"hostPort": 1}]}]}, ["hostPort"]),
    ],
)
def test_the_checker_itself_finds_what_a_container_breaks(spec: dict[str, Any], found: list[str]) -> None:
    assert violations(spec) == [f"c: {told}" for told in found]


def test_the_checker_itself_finds_what_a_pod_breaks() -> None:
    spec = {"containers": [_container()], "hostNetwork": True, "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}
    assert violations(spec) == ["hostNetwork", "volume v is a hostPath"]


def _commands(made: dict[str, Any]) -> dict[str, str]:
    """Everything that a shell or an exec may see: by path, as JSON."""
    shell = ("command", "args", "entrypoint", "rayStartParams", "exec", "runtimeEnvYAML", "metadata.name")
    found = {path: json.dumps(value) for path, value in walk(made) if path.rsplit(".", 1)[-1] in shell}
    assert found
    return found


def test_nothing_of_a_spec_is_in_a_command() -> None:
    """Also not by way of names that KubeRay puts into its submit command: those are of the job's name."""
    # Whether there is an evaluation decides which of two constants the preparation's is.
    plain, full = _commands(manifests(finetunejob(evaluation={"samples": {}}))), _commands(manifests(full_job()))
    assert full == plain
    assert not [path for path, text in full.items() if MARK in text]
    assert MARK in json.dumps(manifests(full_job())["rayjob"]), "the full job has to reach the manifests for this test to mean anything"


@pytest.mark.parametrize("word", ["preparation", "rayjob", "evaluation", "publication"])
def test_ray_start_parameters_are_constants_and_whole_numbers(job: FineTuneJob, word: str) -> None:
    parameters = [value for path, value in walk(manifests(job)[word]) if path.endswith(".rayStartParams")]
    for name, value in chain.from_iterable(found.items() for found in parameters if isinstance(found, dict)):
        assert value.isdecimal() or (name, value) == ("dashboard-host", "0.0.0.0")


def test_secrets_of_ours_are_files_and_never_variables(job: FineTuneJob) -> None:
    forbidden = {"hostPath", "privileged", "hostNetwork", "stringData"}
    # Only where the user says so.
    forbidden |= set() if job.spec.workers.env else {"secretKeyRef", "envFrom", "valueFrom", "subPath"}
    for path, _ in walk(manifests(job)):
        assert path.rsplit(".", 1)[-1] not in forbidden, path


def test_variables_are_in_pods_alone() -> None:
    """The frozen run is a ConfigMap, and the job an annotation of pods: `view` reads both."""
    job = finetunejob(
        workers={"env": [{"name": "OF_WORKERS", "value": "mark"}]},
        cpuPods={"env": [{"name": "OF_CPU_PODS", "value": "mark"}]},
        evaluation={"samples": {}, "pod": {"env": [{"name": "OF_EVALUATION", "value": "mark"}]}},
    )
    for path, value in walk({"run": run_config_map(training_run(executed(job)).to_json(), owner()), **templates(job)}):
        if isinstance(value, str) and "mark" in value:
            assert ".containers.0.env." in path, path


def test_the_same_input_gives_the_same_bytes_and_stays_as_it_was() -> None:
    job = full_job()
    before = copy.deepcopy(job)
    first, second = manifests(job), manifests(full_job())
    assert json.dumps(first) == json.dumps(second)
    assert job == before


def test_a_manifest_is_json(job: FineTuneJob) -> None:
    for made in manifests(job).values():
        assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_every_object_belongs_to_the_job(job: FineTuneJob) -> None:
    for made in manifests(job).values():
        metadata = made["metadata"]
        (reference,) = metadata["ownerReferences"]
        assert reference["uid"] == UID
        assert (reference["controller"], reference["blockOwnerDeletion"]) == (True, False)
        assert metadata["namespace"] == NAMESPACE
        assert metadata["labels"][keys.JOB_LABEL] == job.metadata.name
        assert metadata["labels"][keys.MANAGED_BY_LABEL] == keys.MANAGED_BY
        assert "finalizers" not in metadata


def test_names_fit(job: FineTuneJob) -> None:
    made = manifests(job)
    for manifest in made.values():
        assert DNS_LABEL.fullmatch(manifest["metadata"]["name"])
    # KubeRay 1.6 adds 6 characters for a RayCluster, and 53 are allowed there.
    assert len(keys.rayjob_name(job.metadata.name, 99_999)) <= 47


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_is_whole(job: FineTuneJob, pod: str) -> None:
    """What the API server would refuse in a pod: names twice, mounts without a volume; and what nobody would notice: the reverse."""
    spec = templates(job)[pod]["spec"]
    (container,) = spec["containers"]
    names = [volume["name"] for volume in spec["volumes"]]
    mounted = [mount["name"] for mount in container["volumeMounts"]]
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    variables = [variable["name"] for variable in container["env"]]
    for unique in (names, mounted, paths, variables):
        assert len(unique) == len(set(unique))
    assert set(names) == set(mounted)
    assert all(DNS_LABEL.fullmatch(name) for name in names)
    assert all(len(volume) == 2 for volume in spec["volumes"]), "each volume has a name and one source"
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("pod", PODS)
def test_labels_of_pods(pod: str) -> None:
    stage = pod if pod in ("preparation", "evaluation", "publication") else "training"
    ours = {keys.JOB_LABEL: "starchat", keys.STAGE_LABEL: stage, keys.MANAGED_BY_LABEL: keys.MANAGED_BY}
    assert templates(plain_job())[pod]["metadata"]["labels"] == ours
    key = f"{MARK}.example/{'w' if pod == 'workers' else 'c'}"
    metadata = templates(full_job())[pod]["metadata"]
    assert metadata["labels"] == ours | {key: MARK}
    assert metadata["annotations"].items() >= {key: f"$({MARK})"}.items()


@pytest.mark.parametrize(("word", "letter"), [("preparation", "c"), ("rayjob", "w"), ("evaluation", "c"), ("publication", "c")])
def test_labels_of_what_makes_pods(word: str, letter: str) -> None:
    """Kueue reads priority and queue there, cost reports the rest; annotations are read on pods."""
    metadata = manifests(full_job())[word]["metadata"]
    assert metadata["labels"].items() >= {f"{MARK}.example/{letter}": MARK, keys.QUEUE_LABEL: f"{MARK}-queue"}.items()
    assert f"{MARK}.example/{letter}" not in metadata.get("annotations", {})


def test_the_head_alone_has_a_token() -> None:
    def has_token(template: dict[str, Any]) -> bool:
        return any("serviceAccountToken" in path for path, _ in walk(template))

    assert [pod for pod, template in templates(full_job()).items() if has_token(template)] == ["head"]


@pytest.mark.parametrize("pod", PODS)
def test_user_fields_reach_the_pods_that_they_are_for(pod: str) -> None:
    """The submitter takes part in scheduling alone."""
    spec = templates(full_job())[pod]["spec"]
    letter = "w" if pod == "workers" else "c"
    assert spec["nodeSelector"] == {MARK: MARK}
    assert spec["tolerations"] == [{"key": MARK, "operator": "Equal", "value": MARK, "effect": "NoSchedule"}]
    assert (spec["schedulerName"], spec["runtimeClassName"], spec["priorityClassName"]) == (MARK, MARK, MARK)
    assert spec["affinity"]["nodeAffinity"] == AFFINITY["nodeAffinity"]
    assert spec["affinity"]["podAffinity"] == AFFINITY["podAffinity"]
    assert spec["imagePullSecrets"] == [{"name": f"{MARK}-{letter}-registry"}]
    assert spec["containers"][0]["image"] == f"{MARK}/{letter}:1"
    if pod == "submitter":
        assert "serviceAccountName" not in spec
        assert MARK not in json.dumps(spec["volumes"]) + json.dumps(spec["containers"][0]["env"])
        assert "envFrom" not in spec["containers"][0]
    else:
        assert spec["serviceAccountName"] == f"{MARK}-{letter}"
        assert f"{MARK}-{letter}-own" in {volume["name"] for volume in spec["volumes"]}
        assert {"name": f"{MARK}_{letter}", "value": f"$({MARK}) $(id) ; {MARK}"} in spec["containers"][0]["env"]
        assert [variable["valueFrom"] for variable in spec["containers"][0]["env"] if "valueFrom" in variable] == VALUE_SOURCES
        assert spec["containers"][0]["envFrom"] == ENV_SOURCES
        volume = next(volume for volume in spec["volumes"] if volume["name"] == f"{MARK}-{letter}-csi")
        assert volume["csi"]["volumeAttributes"] == {MARK: MARK}
        assert next(mount for mount in spec["containers"][0]["volumeMounts"] if "subPath" in mount) == {
            "name": f"{MARK}-{letter}-claim",
            "mountPath": f"/{MARK}/{letter}/claim",
            "subPath": f"{MARK}/{letter}",
        }


def test_the_full_job_sets_every_field_of_a_pod() -> None:
    """So that a field that is added to the API and forgotten here is seen."""
    spec: FineTuneJobSpec = full_job().spec
    for settings in (spec.workers, spec.cpu_pods):
        unset = [name for name in PodSettings.model_fields if name not in settings.model_fields_set]
        assert unset == []
    added = set(Workers.model_fields) - set(PodSettings.model_fields)
    assert added == {
        "nodes",
        "min_nodes",
        "gpus_per_node",
        "gpu_resource",
        "workers_per_node",
        "device",
        "accelerator",
        "peak_teraflops",
        "topology_spread_constraints",
        "start_deadline_seconds",
        "collective_timeout_seconds",
    }


@pytest.mark.parametrize("pod", PODS)
def test_image_settings_of_the_operator(pod: str) -> None:
    spec = templates(plain_job(), image_pull_policy="Never", image_pull_secrets=("a", "b"))[pod]["spec"]
    assert spec["containers"][0]["imagePullPolicy"] == "Never"
    assert spec["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    plain = templates(plain_job())[pod]["spec"]
    assert "imagePullPolicy" not in plain["containers"][0]
    assert "imagePullSecrets" not in plain
    assert plain["containers"][0]["image"] == "registry.example/trainer:1"


def test_all_that_a_job_may_ask_for_can_be_made() -> None:
    """The contract refuses what the operator couldn't put into a pod, and no more: the full job holds every field."""
    assert list(pod_problems(full_job())) == []


@pytest.mark.parametrize("pod", PODS)
def test_users_and_groups_may_be_the_platforms(pod: str) -> None:
    """As OpenShift's restricted-v2 wants it: whoever names one outside of the namespace's range is refused."""
    ids = ("runAsUser", "runAsGroup", "fsGroup")
    fixed, assigned = (templates(full_job(), assigned_ids=choice)[pod] for choice in (False, True))
    assert [fixed["spec"]["securityContext"].get(name) for name in ids] == [1000, 1000, 1000]
    assert not [path for path, _ in walk(assigned) if path.rsplit(".", 1)[-1] in ids]
    assert violations(assigned["spec"]) == []
    # Ray and torch ask for the name of a user that the image doesn't know.
    assert variables(assigned).items() >= {"USER": "finetune", "LOGNAME": "finetune"}.items()
