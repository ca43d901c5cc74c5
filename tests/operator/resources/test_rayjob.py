"""The RayJob: its shape for KubeRay, Ray's resources, stopping, spreading over nodes."""

from typing import Any

import pytest
from tests.operator.builders import finetunejob, owner, settings, training_run
from tests.operator.resources.manifests import mounts, templates, variables

from finetune_api.finetunejob import FineTuneJob
from finetune_operator import keys
from finetune_operator.resources.rayjob import rayjob

Json = dict[str, Any]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def made(job: FineTuneJob, attempt: int = 1, **changes: Any) -> Json:
    return rayjob(job, training_run(job).digest, attempt, owner(), settings(**changes))


def group(job: FineTuneJob) -> Json:
    (workers,) = made(job)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return dict(workers)


def test_what_kuberay_is_told() -> None:
    manifest = made(finetunejob(), attempt=3)
    spec = manifest["spec"]
    assert (manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]) == ("ray.io/v1", "RayJob", "starchat-3")
    assert spec["entrypoint"] == "python -m finetune_trainer.pods train"
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (0, True)
    assert "suspend" not in spec
    assert "runtimeEnvYAML" not in spec
    cluster = spec["rayClusterSpec"]
    # KubeRay 1.6 refuses token authentication without a version.
    assert (cluster["authOptions"], cluster["rayVersion"]) == ({"mode": "token"}, "2.60.0")
    assert cluster["enableInTreeAutoscaling"] is False


def test_a_lost_head_ends_the_attempt() -> None:
    manifest = made(finetunejob())
    assert manifest["metadata"]["annotations"] == {"ray.io/disable-provisioned-head-restart": "true"}


def test_the_submitter_is_ours_to_describe() -> None:
    """SidecarMode refuses submitterPodTemplate, and its own container breaks `restricted`."""
    spec = made(finetunejob())["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    (container,) = spec["submitterPodTemplate"]["spec"]["containers"]
    assert "command" not in container
    assert "args" not in container


def test_only_the_name_tells_attempts_apart() -> None:
    one, two = made(finetunejob(), 1), made(finetunejob(), 2)
    assert one["metadata"].pop("name") != two["metadata"].pop("name")
    assert one == two


def test_kueue_is_told_by_a_label_where_there_is_a_queue() -> None:
    assert made(finetunejob(workers={"queueName": "gpus"}))["metadata"]["labels"][keys.QUEUE_LABEL] == "gpus"
    assert keys.QUEUE_LABEL not in made(finetunejob())["metadata"]["labels"]


def test_container_names_and_no_command() -> None:
    """KubeRay takes container 0 as Ray's and makes its command."""
    for pod, name in (("head", "ray-head"), ("workers", "ray-worker")):
        (container,) = templates(finetunejob())[pod]["spec"]["containers"]
        assert container["name"] == name
        assert "command" not in container


def test_all_or_nothing() -> None:
    workers = group(finetunejob(workers={"nodes": 4}))
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (4, 4, 4)


@pytest.mark.parametrize(
    ("workers", "ranks", "gpus", "limits"),
    [
        ({"nodes": 2, "gpusPerNode": 8}, "8", "8", {"nvidia.com/gpu": "8"}),
        ({"nodes": 1, "gpusPerNode": 1}, "1", "1", {"nvidia.com/gpu": "1"}),
        ({"nodes": 2, "gpusPerNode": 2, "device": "cpu"}, "2", "0", {}),
        ({"nodes": 2, "gpusPerNode": 0, "workersPerNode": 4, "device": "cpu"}, "4", "0", {}),
        # gpusPerNode counts.
        (
            {"nodes": 1, "gpusPerNode": 8, "resources": {"limits": {"nvidia.com/gpu": "4", "rdma/hca": "2"}}},
            "8",
            "8",
            {"nvidia.com/gpu": "8", "rdma/hca": "2"},
        ),
        ({"nodes": 1, "gpusPerNode": 1, "gpuResource": "nvidia.com/mig-1g.10gb"}, "1", "1", {"nvidia.com/mig-1g.10gb": "1"}),
        ({"nodes": 1, "gpusPerNode": 8, "gpuResource": "amd.com/gpu"}, "8", "8", {"amd.com/gpu": "8"}),
    ],
)
def test_a_pod_takes_exactly_its_ranks(workers: Json, ranks: str, gpus: str, limits: Json) -> None:
    found = group(finetunejob(workers=workers))
    parameters = found["rayStartParams"]
    assert (parameters["num-cpus"], parameters["num-gpus"]) == (ranks, gpus)
    assert found["template"]["spec"]["containers"][0]["resources"].get("limits", {}) == limits


def test_the_head_offers_nothing_to_ranks() -> None:
    head = made(finetunejob())["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert (head["rayStartParams"]["num-cpus"], head["rayStartParams"]["num-gpus"]) == ("0", "0")
    assert head["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    assert "nvidia.com/gpu" not in str(head["template"]["spec"]["containers"][0]["resources"])


@pytest.mark.parametrize(
    ("resources", "threads"),
    [
        ({}, None),
        ({"requests": {"cpu": "8"}}, "4"),
        ({"requests": {"cpu": "8"}, "limits": {"cpu": "16"}}, "8"),
        ({"limits": {"cpu": "500m"}}, "1"),
        ({"limits": {"cpu": "7"}}, "3"),
    ],
)
def test_ranks_share_the_processors(resources: Json, threads: str | None) -> None:
    job = finetunejob(workers={"nodes": 1, "gpusPerNode": 2, "device": "cpu", "resources": resources})
    assert variables(templates(job)["workers"]).get("OMP_NUM_THREADS") == threads


def test_a_user_may_set_the_threads() -> None:
    job = finetunejob(workers={"resources": {"limits": {"cpu": "64"}}, "env": [{"name": "OMP_NUM_THREADS", "value": "3"}]})
    assert variables(templates(job)["workers"])["OMP_NUM_THREADS"] == "3"


def test_workers_of_several_nodes_share_none() -> None:
    affinity = templates(finetunejob())["workers"]["spec"]["affinity"]
    (term,) = affinity["podAntiAffinity"][REQUIRED]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"] == {"finetune.dev/job": "starchat", "ray.io/node-type": "worker"}
    assert "affinity" not in templates(finetunejob(workers={"nodes": 1}))["workers"]["spec"]


def test_the_users_affinity_stays() -> None:
    wish: Json = {"weight": 1, "podAffinityTerm": {"topologyKey": "rack"}}
    nodes: Json = {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]}}
    theirs: Json = {"podAntiAffinity": {REQUIRED: [{"topologyKey": "rack"}], PREFERRED: [wish]}, "nodeAffinity": nodes}
    affinity = templates(finetunejob(workers={"affinity": theirs}))["workers"]["spec"]["affinity"]
    assert [term["topologyKey"] for term in affinity["podAntiAffinity"][REQUIRED]] == ["rack", "kubernetes.io/hostname"]
    assert affinity["podAntiAffinity"][PREFERRED] == [wish]
    assert affinity["nodeAffinity"] == nodes


@pytest.mark.parametrize("seconds", [240, 10])
def test_time_to_stop(seconds: int) -> None:
    made_templates = templates(finetunejob(), stop_seconds=seconds)
    head, workers = made_templates["head"], made_templates["workers"]
    assert workers["spec"]["terminationGracePeriodSeconds"] == seconds + 30
    assert workers["spec"]["shareProcessNamespace"], "KubeRay's init container ends when it is asked to"
    assert head["spec"]["terminationGracePeriodSeconds"] == seconds + 60
    for template in (head, workers):
        command = template["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["python", "-m", "finetune_trainer.pods", "before-stop"]
        assert variables(template)["FINETUNE_STOP_SECONDS"] == str(seconds)
    assert variables(head)["RAY_JOB_STOP_WAIT_TIME_S"] == str(seconds)


def test_what_the_head_is_told() -> None:
    job = finetunejob()
    head = templates(job)["head"]
    found = variables(head)
    assert found["FINETUNE_REPORT"] == "starchat"
    assert found["FINETUNE_RUN"] == "/etc/finetune/run/run.json"
    assert found["RAY_TRAIN_ENABLE_STATE_TRACKING"] == found["RAY_TRAIN_V2_ENABLED"] == "1"
    assert found["RAY_CHDIR_TO_TRIAL_DIR"] == found["RAY_USAGE_STATS_ENABLED"] == "0"
    assert mounts(head)["/etc/finetune/run"]["configMap"]["name"] == f"starchat-run-{training_run(job).digest[:8]}"
    assert "FINETUNE_REPORT" not in variables(templates(job)["workers"])
    assert not [name for name in found if name.startswith("NCCL")]


def test_identities() -> None:
    job = finetunejob(workers={"serviceAccountName": "irsa"})
    assert {pod: found["spec"].get("serviceAccountName") for pod, found in templates(finetunejob()).items()} == {
        "preparation": None,
        "head": "starchat-finetune",
        "workers": "starchat-finetune",
        "submitter": None,
        "evaluation": None,
        "publication": None,
    }
    assert {pod: found["spec"].get("serviceAccountName") for pod, found in templates(job).items()} == {
        "preparation": "irsa",
        "head": "irsa",
        "workers": "irsa",
        "submitter": None,
        "evaluation": "irsa",
        "publication": "irsa",
    }


def test_images() -> None:
    """Ray has to be the same in all of them, so CPU pods follow the workers' image."""
    job = finetunejob(workers={"image": "mine:2"})
    assert {found["spec"]["containers"][0]["image"] for found in templates(job).values()} == {"mine:2"}
    both = templates(finetunejob(workers={"image": "mine:2"}, cpuPods={"image": "slim:2"}))
    assert both["workers"]["spec"]["containers"][0]["image"] == "mine:2"
    assert both["head"]["spec"]["containers"][0]["image"] == "slim:2"


def test_topology_spread_is_the_workers() -> None:
    constraints = [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]
    found = templates(finetunejob(workers={"topologySpreadConstraints": constraints}))
    assert found["workers"]["spec"]["topologySpreadConstraints"] == constraints
    assert "topologySpreadConstraints" not in found["head"]["spec"]


# ---- what holds when nobody looks


def test_without_an_operator_kuberay_ends_what_never_starts_or_lasts_too_long() -> None:
    assert made(finetunejob())["spec"]["preRunningDeadlineSeconds"] == 1920
    assert "activeDeadlineSeconds" not in made(finetunejob())["spec"]
    patient = finetunejob(workers={"startDeadlineSeconds": 2**40})
    assert made(patient)["spec"]["preRunningDeadlineSeconds"] == 2**31 - 1


@pytest.mark.parametrize(("left", "carried"), [(3599.2, 3600), (0.0, 1), (2.0**40, 2**31 - 1)])
def test_the_rayjob_carries_what_is_left(left: float, carried: int) -> None:
    job = finetunejob()
    manifest = rayjob(job, training_run(job).digest, 1, owner(), settings(), seconds_left=left)
    assert manifest["spec"]["activeDeadlineSeconds"] == carried


def test_who_preempts_the_head_or_the_submitter_preempts_the_workers() -> None:
    def priorities(**spec: Any) -> dict[str, str | None]:
        return {pod: found["spec"].get("priorityClassName") for pod, found in templates(finetunejob(**spec)).items()}

    only_workers = priorities(workers={"priorityClassName": "high"})
    alone = {"preparation": None, "evaluation": None, "publication": None}
    assert only_workers == {**alone, "head": "high", "workers": "high", "submitter": "high"}
    both = priorities(workers={"priorityClassName": "high"}, cpuPods={"priorityClassName": "low"})
    assert both == {**dict.fromkeys(alone, "low"), "head": "low", "workers": "high", "submitter": "low"}


# ---- nodes that are avoided

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
AWAY = {
    "weight": 100,
    "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node-7", "node-9"]}]},
}
THEIRS: Json = {
    "nodeAffinity": {
        REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["a100"]}]}]},
        PREFERRED: [{"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}],
    }
}


def affinities(avoided: tuple[str, ...], **spec: Any) -> dict[str, Json]:
    job = finetunejob(**spec)
    cluster = rayjob(job, training_run(job).digest, 3, owner(), settings(), avoided=avoided)["spec"]["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"], "workers": cluster["workerGroupSpecs"][0]}
    return {name: found["template"]["spec"].get("affinity") or {} for name, found in groups.items()}


def test_nodes_that_failed_are_avoided_by_workers_and_head() -> None:
    found = affinities(("node-7", "node-9"))
    assert found["head"] == {"nodeAffinity": {PREFERRED: [AWAY]}}
    assert found["workers"]["nodeAffinity"] == {PREFERRED: [AWAY]}
    assert REQUIRED in found["workers"]["podAntiAffinity"], "one pod a node, as ever"


def test_avoiding_a_node_overrides_nothing_of_the_users() -> None:
    found = affinities(("node-7", "node-9"), workers={"affinity": THEIRS}, cpuPods={"affinity": THEIRS})
    for affinity in found.values():
        assert affinity["nodeAffinity"][REQUIRED] == THEIRS["nodeAffinity"][REQUIRED]
        assert affinity["nodeAffinity"][PREFERRED] == [*THEIRS["nodeAffinity"][PREFERRED], AWAY]
    assert affinities((), workers={"affinity": THEIRS})["workers"]["nodeAffinity"] == THEIRS["nodeAffinity"]
