"""What a job needs on a cluster that `finetune run` can do without: storage that outlives pods, and paths that pods can see.

A pod has only its image, the job's volumes and the network. Workers mount `workers.volumes`, the head, preparation and
publication mount `cpuPods.volumes`, evaluation those and its own; so a path that several read has to be on a volume of each.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import PurePosixPath

from finetune_api.checks import is_path
from finetune_api.errors import Problem
from finetune_api.finetunejob import FineTuneJob, FineTuneJobSpec, Volume
from finetune_api.merged_pods import evaluation_pod
from finetune_api.pod_checks import Pods, pod_problems


def cluster_problems(job: FineTuneJob) -> list[Problem]:
    """Everything that only a cluster refuses, beside what `plan` finds."""
    spec = job.spec
    return [
        *_storage_problems(spec),
        *_read_problems(spec),
        *_publication_problems(spec),
        *pod_problems(job),
    ]


# ---- paths


def _storage_problems(spec: FineTuneJobSpec) -> Iterator[Problem]:
    """All pods of the job read and write the storage: a bucket, or one claim that all of them mount."""
    field, storage = "spec.checkpoints.storage", spec.checkpoints.storage
    if storage is None:
        yield Problem(field, "is missing, and a pod's own disk goes with the pod", "set it to s3://bucket/prefix, or a path on a volume")
    elif storage.startswith("/"):
        yield from _shared_claim_problems(field, storage, spec)
    elif "://" not in storage:
        yield _relative(field, storage, "use s3://bucket/prefix, or an absolute path on a volume")


def _shared_claim_problems(field: str, path: str, spec: FineTuneJobSpec) -> Iterator[Problem]:
    found = []
    for pods in _readers(spec):
        volume = _volume_at(path, _volumes(spec)[pods])
        if problem := _lasting_problem(field, path, pods, volume):
            yield problem
        elif volume is not None and volume.persistent_volume_claim is not None:
            below = f", its {PurePosixPath(volume.sub_path)}" if volume.sub_path else ""
            place = f"on claim {volume.persistent_volume_claim.claim_name}{below} (mounted at {PurePosixPath(volume.mount_path)})"
            found.append((place, "the workers" if pods == "workers" else pods))
    for (one, first), (other, second) in pairwise(found):
        if one != other:
            told = f'"{path}" is {one} in {first}, and {other} in {second}'
            yield Problem(field, told, "mount the same claim at the same path in both")


def _read_problems(spec: FineTuneJobSpec) -> Iterator[Problem]:
    """Workers, CPU pods and evaluation read the model, only preparation reads the sources, and evaluation its own files."""
    yield from _source_problems("spec.model.name", spec.model.name, _readers(spec), spec)
    yield from _evaluation_problems(spec)
    for index, source in enumerate(spec.dataset.sources):
        yield from _source_problems(f"spec.dataset.sources[{index}].path", source.path, ("cpuPods",), spec)


def _evaluation_problems(spec: FineTuneJobSpec) -> Iterator[Problem]:
    judge, samples, task_data = spec.evaluation.judge, spec.evaluation.samples, spec.evaluation.task_data
    for field, prompts in (("judge", judge.prompts if judge else None), ("samples", samples.prompts if samples else None)):
        if prompts is not None:
            yield from _source_problems(f"spec.evaluation.{field}.prompts", prompts, ("evaluation.pod",), spec)
    if task_data is not None:
        place = task_data if is_path(task_data) else f"./{task_data}"  # always a folder, and never an id of the Hub
        yield from _source_problems("spec.evaluation.taskData", place, ("evaluation.pod",), spec)


def preparation_sees(path: str, spec: FineTuneJobSpec) -> bool:
    """Whether the preparation's pod has at an absolute path what the evaluation's pod will have there."""
    volume = _volume_at(path, evaluation_pod(spec).volumes)
    return volume is not None and volume == _volume_at(path, spec.cpu_pods.volumes)


def _source_problems(field: str, name: str, readers: Sequence[Pods], spec: FineTuneJobSpec) -> Iterator[Problem]:
    if not is_path(name):
        return
    if not name.startswith("/"):
        yield _relative(field, name, "use a Hub id, s3://bucket/key, or an absolute path on a volume")
        return
    for pods in readers:
        volume = _volume_at(name, _volumes(spec)[pods])
        if volume is None:
            yield _on_no_volume(field, name, pods)
        elif volume.empty_dir is not None or volume.ephemeral is not None:
            told = f'"{name}" is on volume {volume.name} of {pods}, which is empty when a pod starts'
            yield Problem(field, told, "use a persistentVolumeClaim that holds it, or s3://bucket/key")


def _publication_problems(spec: FineTuneJobSpec) -> Iterator[Problem]:
    """The publication pod writes the directory, or needs a token for the Hub."""
    directory, hub = spec.publish.directory, spec.publish.hub
    field = "spec.publish.directory.path"
    if directory is not None and not directory.path.startswith("/"):
        yield _relative(field, directory.path, "use an absolute path on a volume of cpuPods.volumes")
    elif directory is not None:
        volume = _volume_at(directory.path, spec.cpu_pods.volumes)
        if problem := _lasting_problem(field, directory.path, "cpuPods", volume):
            yield problem
    # Which variables a Secret of envFrom holds isn't known here.
    in_environment = bool(spec.cpu_pods.env_from) or any(variable.name == "HF_TOKEN" for variable in spec.cpu_pods.env)
    if hub is not None and hub.token_secret is None and not in_environment:
        yield Problem("spec.publish.hub.tokenSecret", "is missing, and the Hub lets nobody write without a token", "name a Secret with it")


def _volumes(spec: FineTuneJobSpec) -> dict[Pods, list[Volume]]:
    found: dict[Pods, list[Volume]] = {"workers": spec.workers.volumes, "cpuPods": spec.cpu_pods.volumes}
    return found | ({"evaluation.pod": evaluation_pod(spec).volumes} if spec.evaluation.has_stage else {})


def _readers(spec: FineTuneJobSpec) -> tuple[Pods, ...]:
    """Pods that read what all read. Evaluation has the CPU pods' volumes, and says nothing new unless it has others."""
    own = spec.evaluation.has_stage and spec.evaluation.pod is not None and spec.evaluation.pod.volumes
    return ("workers", "cpuPods", "evaluation.pod") if own else ("workers", "cpuPods")


def _volume_at(path: str, volumes: Sequence[Volume]) -> Volume | None:
    """The volume that a path is on: the one with the longest mount path above it. A path with `..` is on none: it may lead anywhere."""
    if ".." in PurePosixPath(path).parts:
        return None
    above = [volume for volume in volumes if PurePosixPath(path).is_relative_to(volume.mount_path)]
    return max(above, key=lambda volume: len(PurePosixPath(volume.mount_path).parts), default=None)


def _lasting_problem(field: str, path: str, pods: Pods, volume: Volume | None) -> Problem | None:
    """Why what is written there is lost, if it is."""
    if volume is None:
        return _on_no_volume(field, path, pods)
    if volume.persistent_volume_claim is None:
        told = f'"{path}" is on volume {volume.name} of {pods}, which does not outlive a pod or can\'t be written'
        return Problem(field, told, "use a persistentVolumeClaim, or s3://bucket/prefix")
    if volume.read_only:
        return Problem(field, f'"{path}" is on volume {volume.name} of {pods}, which is readOnly', "remove readOnly from the volume")
    return None


def _on_no_volume(field: str, path: str, pods: Pods) -> Problem:
    return Problem(field, f'"{path}" is on no volume of {pods}', f"mount a persistentVolumeClaim above it in spec.{pods}.volumes")


def _relative(field: str, path: str, remedy: str) -> Problem:
    return Problem(field, f'"{path}" is relative to the job file, and pods have none', remedy)
