"""The sample that serves a published model: what its container runs is a real command, on probes and mounts that fit it."""

from typing import Any

import pytest
import typer
import yaml
from charts.generate import ROOT

from finetune_cli.app import app

SAMPLE = ROOT / "manifests/samples/serving/assistant.yaml"
IMAGE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(SAMPLE.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def pod(objects: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_its_command_is_one_of_ours_and_listens_where_the_probes_look(pod: dict[str, Any], objects: dict[str, Any]) -> None:
    [container] = pod["containers"]
    program, command, *arguments = container["command"]
    assert (program, command) == ("finetune", "serve")
    given = typer.main.get_command(app).commands["serve"].make_context("serve", list(arguments)).params  # type: ignore[attr-defined]
    assert (given["model"], given["host"], given["served_model_name"]) == ("your-name/my-assistant", "0.0.0.0", "my-assistant")
    [port] = container["ports"]
    assert port["containerPort"] == given["port"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": port["name"]}
    assert [each["targetPort"] for each in objects["Service"]["spec"]["ports"]] == [port["name"]]


def test_the_service_finds_its_pods(objects: dict[str, Any]) -> None:
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels == objects["Deployment"]["spec"]["selector"]["matchLabels"] == objects["Service"]["spec"]["selector"]


def test_it_needs_no_rights_and_writes_where_it_may(pod: dict[str, Any]) -> None:
    """Pod security standard `restricted`; user and home are those of the trainer's image."""
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}\n" in IMAGE
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    written = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert written == {"/home/finetune/.cache", "/tmp"}
    assert "HOME=/home/finetune\n" in IMAGE


def test_the_trainer_s_image_has_the_server() -> None:
    locked = (ROOT / "requirements/trainer.txt").read_text(encoding="utf-8")
    for package in ("fastapi", "uvicorn", "openai", "accelerate"):
        assert f"\n{package}==" in locked
