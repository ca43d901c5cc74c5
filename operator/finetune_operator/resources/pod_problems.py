"""What would go wrong with a job's pods only when they are made, beside what `finetune_api.cluster_checks` finds.

In: a job whose spec is well formed. Out: problems with field and remedy, in no case an exception. Here is what depends on how this
operator builds pods: variables that it sets, the affinity that it adds to, and the job that travels in an annotation.
"""

from collections.abc import Iterator
from typing import Any, Final

from finetune_api.errors import Problem
from finetune_api.finetunejob import FineTuneJob, PodSettings
from finetune_operator.resources.pods import is_reserved, job_json

# Kubernetes refuses more than 256 KiB of annotations, and the pod has others.
LARGEST_JOB_BYTES: Final = 224 * 1024
_AFFINITIES: Final = ("nodeAffinity", "podAffinity", "podAntiAffinity")


def pod_problems(job: FineTuneJob) -> tuple[Problem, ...]:
    """Everything about a job's pods that this operator can't make."""
    spec = job.spec
    return (
        *_size_problems(job),
        *_environment_problems("spec.workers.env", spec.workers),
        *_affinity_problems("spec.workers.affinity", spec.workers.affinity),
        *_environment_problems("spec.cpuPods.env", spec.cpu_pods),
        *_affinity_problems("spec.cpuPods.affinity", spec.cpu_pods.affinity),
    )


def _size_problems(job: FineTuneJob) -> Iterator[Problem]:
    size = len(job_json(job).encode())
    if size > LARGEST_JOB_BYTES:
        yield Problem("spec", f"has {size} bytes, and pods can be given {LARGEST_JOB_BYTES}", "shorten lists and free-form fields")


def _environment_problems(field: str, settings: PodSettings) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, variable in enumerate(settings.env):
        if is_reserved(variable.name):
            yield Problem(f"{field}[{index}].name", f"{variable.name} is set by the operator or by KubeRay", "remove it")
        elif variable.name in seen:
            yield Problem(f"{field}[{index}].name", f"{variable.name} is there twice", "keep one")
        seen.add(variable.name)


def _affinity_problems(field: str, affinity: dict[str, Any] | None) -> Iterator[Problem]:
    """Only the form of what we add to: the API server looks at the rest."""
    for name, value in (affinity or {}).items():
        if name not in _AFFINITIES:
            yield Problem(f"{field}.{name}", "there is no such field", f"its keys are {', '.join(_AFFINITIES)}")
        elif not isinstance(value, dict):
            yield Problem(f"{field}.{name}", "is not an object", "write it as in a pod")
        elif name != "nodeAffinity" and any(not isinstance(terms, list) for terms in value.values()):
            yield Problem(f"{field}.{name}", "has terms that are no list", "write it as in a pod")
