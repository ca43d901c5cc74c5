"""What is found before any pod exists, beside what the contract's own checks find."""

from typing import Any

import pytest
from tests.operator.builders import finetunejob
from tests.operator.resources.manifests import full_job

from finetune_operator.resources.pod_problems import pod_problems

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        ({"workers": {"env": [{"name": "FINETUNE_RUN"}]}}, "spec.workers.env[0].name", "set by the operator"),
        ({"cpuPods": {"env": [{"name": "RAY_AUTH_MODE", "value": "disabled"}]}}, "spec.cpuPods.env[0].name", "KubeRay"),
        ({"workers": {"env": [{"name": "A"}, {"name": "A"}]}}, "spec.workers.env[1].name", "twice"),
        ({"workers": {"affinity": {"podAffinty": {}}}}, "spec.workers.affinity.podAffinty", "no such field"),
        ({"cpuPods": {"affinity": {"podAntiAffinity": []}}}, "spec.cpuPods.affinity.podAntiAffinity", "not an object"),
        (
            {"workers": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}}},
            "spec.workers.affinity.podAntiAffinity",
            "no list",
        ),
        ({"cpuPods": {"env": [{"name": f"A{n}", "value": "x" * 16_000} for n in range(15)]}}, "spec", "pods can be given"),
    ],
)
def test_one_problem_with_its_field_and_a_remedy(spec: Json, field: str, says: str) -> None:
    (problem,) = pod_problems(finetunejob(**spec))
    assert problem.field == field
    assert says in problem.message
    assert problem.remedy


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"workers": {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "OMP_NUM_THREADS", "value": "4"}]}},
        {"workers": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}},
        {"workers": {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}}},
    ],
)
def test_what_works(spec: Json) -> None:
    assert pod_problems(finetunejob(**spec)) == ()


def test_the_full_job_works() -> None:
    assert pod_problems(full_job()) == ()
