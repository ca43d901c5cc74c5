"""What is mounted where: Secrets as files, and the user's volumes beside ours."""

from pathlib import PurePosixPath
from typing import Any

import pytest
from tests.operator.builders import finetunejob
from tests.operator.resources.manifests import full_job, mounts, templates, variables

from finetune_api.pod_checks import OUR_MOUNTS, OUR_VOLUMES

Json = dict[str, Any]


def secrets(template: Json) -> dict[str, list[str]]:
    """Folder below the Secrets' -> kinds that are in it."""
    prefix = "/etc/finetune/secrets/"
    found = {path.removeprefix(prefix): volume for path, volume in mounts(template).items() if path.startswith(prefix)}
    return {name: [kind for source in volume["projected"]["sources"] for kind in source] for name, volume in found.items()}


@pytest.mark.parametrize(
    ("pod", "names"),
    [
        ("preparation", {"mark-secret", "mark-data", "mark-s3", "mark-ca", "mark-hub", "mark-judge"}),
        ("head", {"mark-secret", "mark-s3", "mark-ca"}),
        ("workers", {"mark-secret", "mark-s3", "mark-ca"}),
        ("evaluation", {"mark-secret", "mark-s3", "mark-ca", "mark-judge", "mark-data"}),
        ("publication", {"mark-secret", "mark-s3", "mark-ca", "mark-hub"}),
        ("submitter", set()),
    ],
)
def test_each_pod_gets_the_secrets_that_it_needs(pod: str, names: set[str]) -> None:
    """The token that may write to the Hub is where it is tried and where it is used."""
    found = secrets(templates(full_job())[pod])
    assert found == {name: ["configMap" if name == "mark-ca" else "secret"] for name in names}


def test_keys_of_object_storage_are_where_the_model_goes_out() -> None:
    publish = {"storage": {"path": "s3://bucket/model", "credentialsSecret": {"name": "models"}, "caBundle": {"name": "models-ca"}}}
    pods = templates(finetunejob(publish=publish))
    expected = {"models": ["secret"], "models-ca": ["configMap"]}
    for pod, found in (("preparation", expected), ("publication", expected), ("head", {}), ("workers", {})):
        assert {name: kinds for name, kinds in secrets(pods[pod]).items() if name.startswith("models")} == found


def test_an_evaluation_looks_into_the_data_if_it_may() -> None:
    """It isn't held up by a Secret that was deleted after training."""
    sources = [
        {"path": "org/data", "tokenSecret": {"name": "data", "key": "token"}},
        {"path": "org/more", "tokenSecret": {"name": "hub", "key": "token"}},
    ]
    spec = {"dataset": {"sources": sources}, "model": {"name": "org/base", "tokenSecret": {"name": "hub", "key": "token"}}}
    found = mounts(templates(finetunejob(**spec, evaluation={"tasks": ["mmlu"]}))["evaluation"])
    optional = {name: found[f"/etc/finetune/secrets/{name}"]["projected"]["sources"][0]["secret"]["optional"] for name in ("data", "hub")}
    assert optional == {"data": True, "hub": False}
    assert "data" not in secrets(templates(finetunejob(**spec, evaluation={"samples": {}}))["evaluation"])


def test_a_config_map_may_have_a_secrets_name() -> None:
    job = finetunejob(checkpoints={"credentialsSecret": {"name": "s3"}, "caBundle": {"name": "s3"}})
    assert secrets(templates(job)["head"]) == {"s3": ["configMap", "secret"]}


def test_a_secret_of_the_longest_name_has_a_short_volume() -> None:
    name = "s" * 253
    volume = mounts(templates(finetunejob(checkpoints={"credentialsSecret": {"name": name}}))["head"])[f"/etc/finetune/secrets/{name}"]
    assert len(volume["name"]) <= 63


def test_a_missing_secret_is_waited_for_not_left_out() -> None:
    for path, volume in mounts(templates(full_job())["preparation"]).items():
        if path.startswith("/etc/finetune/secrets/"):
            assert all(next(iter(source.values()))["optional"] is False for source in volume["projected"]["sources"])
            assert volume["projected"]["defaultMode"] == 0o440


@pytest.mark.parametrize("pod", ["preparation", "head", "workers", "evaluation", "publication"])
def test_places_to_write(pod: str) -> None:
    found = mounts(templates(finetunejob())[pod])
    assert found["/var/lib/finetune"]["emptyDir"] == found["/tmp"]["emptyDir"] == {}
    assert found["/dev/shm"]["emptyDir"] == {"medium": "Memory"}


@pytest.mark.parametrize("pod", ["preparation", "head", "workers", "evaluation", "publication"])
def test_the_contract_knows_where_our_volumes_are(pod: str) -> None:
    """It refuses volumes of users there, by name and by path."""
    job = finetunejob(model={"cache": {"claimName": "weights"}}, checkpoints={"caBundle": {"name": "ca"}})
    for path, volume in mounts(templates(job)[pod]).items():
        assert volume["name"].startswith(OUR_VOLUMES)
        assert any(PurePosixPath(path).is_relative_to(ours) for ours in OUR_MOUNTS if ours != "/dev")


@pytest.mark.parametrize(
    ("volume", "source"),
    [
        ({"persistentVolumeClaim": {"claimName": "c"}}, {"persistentVolumeClaim": {"claimName": "c"}}),
        ({"configMap": {"name": "m"}}, {"configMap": {"name": "m", "optional": False}}),
        ({"secret": {"name": "s"}}, {"secret": {"secretName": "s", "optional": False, "defaultMode": 0o440}}),
        ({"emptyDir": {}}, {"emptyDir": {}}),
        ({"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}, {"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}),
        (
            {"ephemeral": {"size": "5Gi", "storageClassName": "fast"}},
            {
                "ephemeral": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "resources": {"requests": {"storage": "5Gi"}},
                            "storageClassName": "fast",
                        }
                    }
                }
            },
        ),
    ],
)
def test_the_users_volumes(volume: Json, source: Json) -> None:
    given = {"name": "v", "mountPath": "/v", "readOnly": True, **volume}
    template = templates(finetunejob(workers={"volumes": [given]}))["workers"]
    assert mounts(template)["/v"] == {"name": "v", **source}
    assert {"name": "v", "mountPath": "/v", "readOnly": True} in template["spec"]["containers"][0]["volumeMounts"]


def test_workers_and_cpu_pods_have_their_own_volumes() -> None:
    workers, cpu = ({"volumes": [{"name": name, "mountPath": f"/{name}", "emptyDir": {}}]} for name in ("gpu", "cpu"))
    made = templates(finetunejob(workers=workers, cpuPods=cpu))
    users = {pod: [path for path, volume in mounts(template).items() if volume["name"] in ("gpu", "cpu")] for pod, template in made.items()}
    assert users == {
        "preparation": ["/cpu"],
        "head": ["/cpu"],
        "workers": ["/gpu"],
        "submitter": [],
        "evaluation": ["/cpu"],
        "publication": ["/cpu"],
    }


def test_the_cache_of_weights_is_where_weights_are_read() -> None:
    """A claim that only one node can mount would bind the head and other CPU pods to the workers' node."""
    made = templates(finetunejob(model={"cache": {"claimName": "weights"}}))
    path = "/var/lib/finetune/model-cache"
    for pod in ("workers", "evaluation"):
        assert mounts(made[pod])[path]["persistentVolumeClaim"] == {"claimName": "weights"}
        assert variables(made[pod])["FINETUNE_MODEL_CACHE"] == path
    for pod in ("preparation", "head", "submitter", "publication"):
        assert path not in mounts(made[pod])
        assert "FINETUNE_MODEL_CACHE" not in variables(made[pod])
    assert "FINETUNE_MODEL_CACHE" not in variables(templates(finetunejob())["workers"])


@pytest.mark.parametrize("pod", ["preparation", "head", "workers", "evaluation", "publication"])
def test_a_users_variables_never_win(pod: str) -> None:
    names = [*variables(templates(finetunejob())[pod]), "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS", "FINETUNE_ANYTHING"]
    env = [{"name": name, "value": "theirs"} for name in names] + [{"name": "HF_ENDPOINT", "value": "http://hub"}]
    field = "workers" if pod == "workers" else "cpuPods"
    found = variables(templates(finetunejob(**{field: {"env": env}}))[pod])
    assert "theirs" not in found.values()
    assert found == variables(templates(finetunejob())[pod]) | {"HF_ENDPOINT": "http://hub"}
