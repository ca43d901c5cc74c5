"""What a real API server says to dry runs, asked with the chart's own rights: before anything is made."""

from typing import Any

import pytest
from tests.control_plane.played import eventually
from tests.control_plane.stage import Stage, operator_of_one_namespace
from tests.operator import builders

from finetune_operator import kinds
from finetune_operator.resources.dry_run import asked_about
from finetune_operator.runtime.api import Forbidden, Resource

pytestmark = pytest.mark.control_plane

QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
ZONES = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}


def test_quota_and_a_wrong_pod_are_told_before_anything_is_made(stage: Stage) -> None:
    none = {"count/rayjobs.ray.io": "0"}
    stage.api.create(QUOTAS, stage.namespace, {**of_kind(QUOTAS), "metadata": {"name": "none"}, "spec": {"hard": none}})
    # Its controller, which learns of custom resources late, would write the same.
    stage.api.merge_patch(QUOTAS, stage.namespace, "none", {"status": {"hard": none, "used": none}}, subresource="status")
    eventually("the quota is counted", lambda: "exceeded quota" in refusal_of_rayjobs(stage))
    operator_of_one_namespace(stage)
    stage.submit()
    stage.until("Planned", "False", "Rejected")
    assert "exceeded quota: none" in message(stage)

    stage.api.delete(QUOTAS, stage.namespace, "none")
    eventually("the quota is gone", lambda: not refusal_of_rayjobs(stage))
    stage.change(workers={"topologySpreadConstraints": [ZONES, ZONES]})
    eventually(
        "KubeRay's definition refuses it", lambda: "spec.workers.topologySpreadConstraints[1]: RayJob" in message(stage), say=stage.told
    )
    typo = {"key": "gpu node", "operator": "Exists"}  # which no definition forbids, and no pod may have
    stage.change(workers={"topologySpreadConstraints": [ZONES], "tolerations": [typo]})
    eventually("a pod can't have it", lambda: "spec.workers.tolerations[0].key: Job.batch" in message(stage), say=stage.told)
    assert '"gpu node"' in message(stage)
    assert stage.condition("Stalled") == ("True", "Rejected")
    assert stage.names(kinds.JOBS) == stage.names(kinds.RAYJOBS) == []

    stage.change(workers={"tolerations": [{**typo, "key": "gpu"}]})
    stage.until("Planned", "True")
    eventually("it is prepared", lambda: len(stage.names(kinds.JOBS)) == 1, say=stage.told)
    assert stage.names(kinds.RAYJOBS) == []


def of_kind(resource: Resource) -> dict[str, Any]:
    return {"apiVersion": resource.api_version, "kind": resource.kind}


def refusal_of_rayjobs(stage: Stage) -> str:
    """What an administrator's dry run is told."""
    made, _ = asked_about(builders.finetunejob(), 1, builders.owner("other", namespace=stage.namespace), builders.settings())
    try:
        stage.api.create(kinds.RAYJOBS, stage.namespace, made, dry_run=True)
    except Forbidden as error:
        return error.message
    return ""


def message(stage: Stage) -> str:
    return next((str(c["message"]) for c in stage.status.get("conditions", []) if c["type"] == "Planned"), "")
