"""KubeRay that isn't there yet, is too old, or may not be used: on an API server of this test's own, whose CRDs come and change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.control_plane.conftest import CRDS
from tests.control_plane.operators import Operators
from tests.control_plane.played import eventually
from tests.control_plane.stage import Stage, operator_of_one_namespace
from tests.operator import builders
from tests.testcluster.binaries import kuberay_crds
from tests.testcluster.control_plane import ControlPlane
from tests.testcluster.control_plane import control_plane as running_control_plane

from finetune_operator import kinds
from finetune_operator.runtime.api import Api

pytestmark = pytest.mark.control_plane


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """With our CRDs alone."""
    with running_control_plane(tmp_path_factory.mktemp("kuberay") / "cluster") as plane:
        plane.kubectl("apply", "--server-side", "-f", CRDS)
        api = Api.connect(plane.kubeconfig, user_agent="test")
        for resource in (kinds.FINETUNEJOBS, kinds.FINETUNEREPORTS):
            eventually(f"{resource.plural} are served", lambda r=resource: api.list_pages(r, None)[1])  # type: ignore[misc]
        api.close()
        yield plane


def test_a_job_waits_for_kuberay_with_a_remedy_and_starts_by_itself(plane: ControlPlane, started: Operators, tmp_path: Path) -> None:
    """Not installed, then too old, then installed; of another job, installed and not granted, then granted. Nobody touches the jobs."""
    stage = Stage(plane, started, "kuberay")
    stage.operator()
    stage.submit()
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.until("Stalled", "True", "KubeRayAbsent")
    assert "install KubeRay 1.6 or newer" in message(stage, "Trained")

    rayjobs = yaml.safe_load((kuberay_crds() / "ray.io_rayjobs.yaml").read_text(encoding="utf-8"))
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(without_token_authentication(rayjobs)), encoding="utf-8")
    plane.kubectl("apply", "--server-side", "-f", tmp_path / "old.yaml")
    stage.until("Stalled", "True", "KubeRayTooOld")
    assert "upgrade KubeRay to 1.6 or newer" in message(stage, "Trained")
    assert stage.names(kinds.RAYJOBS) == []

    plane.kubectl("apply", "--server-side", "-f", kuberay_crds() / "ray.io_rayjobs.yaml")
    stage.rayjob("starchat-1")
    stage.until("Stalled", "False")

    other = Stage(plane, started, "kuberay-not-granted")
    operator_of_one_namespace(other, without="rayjobs")
    other.submit()
    other.kubelet.complete("-prepare-", builders.prepared())
    other.until("Stalled", "True", "KubeRayForbidden")
    assert "give its role the verbs get, list, watch, create and delete on rayjobs.ray.io" in message(other, "Trained")
    role = other.api.get(kinds.ROLES, other.namespace, "operator")
    granted = {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "list", "watch", "create", "delete"]}
    other.api.merge_patch(kinds.ROLES, other.namespace, "operator", {"rules": [*role["rules"], granted]})
    other.rayjob("starchat-1")
    for operator in (*stage.mine, *other.mine):
        operator.kill()


def message(stage: Stage, kind: str) -> str:
    return str(next(condition["message"] for condition in stage.status["conditions"] if condition["type"] == kind))


def without_token_authentication(crd: dict[str, Any]) -> dict[str, Any]:
    """The CRD as KubeRay before 1.5 had it in this respect."""
    for version in crd["spec"]["versions"]:
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        spec["rayClusterSpec"]["properties"].pop("authOptions", None)
    return crd
