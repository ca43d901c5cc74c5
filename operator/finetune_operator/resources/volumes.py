"""What is mounted in pods, and where: our own files, Secrets as files, scratch, and the user's volumes.

In: a job. Out: `Mounted` values, which `pods` turns into a pod's volumes and mounts. Nothing reads a Secret here: it is named, and
the kubelet puts its keys into files, which it renews in place. No volume of ours or of a user is a hostPath.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from finetune_api.finetunejob import FineTuneJob, NamedVolume, PodSettings, SecretKey, SecretName, Volume
from finetune_operator import keys
from finetune_operator.resources.owner import Manifest

# Files belong to root and the pod's group (fsGroup), and nobody else reads them.
_GROUP_READS: Final = 0o440
# The kubelet renews a token after 80 % of its life.
_TOKEN_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A volume with the one place where it is mounted; `source` is the volume without its name."""

    name: str
    path: str
    source: Manifest
    read_only: bool = False
    sub_path: str | None = None

    def volume(self) -> Manifest:
        """The pod's volume."""
        return {"name": self.name, **self.source}

    def mount(self) -> Manifest:
        """The container's mount."""
        part = {"subPath": self.sub_path} if self.sub_path else {}
        return {"name": self.name, "mountPath": self.path} | part | ({"readOnly": True} if self.read_only else {})


# ---- ours


def scratch() -> tuple[Mounted, ...]:
    """Places to write: scratch, temporary files, shared memory (NCCL, Ray's objects)."""
    places: tuple[tuple[str, str, Manifest], ...] = (
        (f"{keys.VOLUME_PREFIX}scratch", keys.SCRATCH_FOLDER, {"emptyDir": {}}),
        (f"{keys.VOLUME_PREFIX}tmp", keys.TEMPORARY_FOLDER, {"emptyDir": {}}),
        # Without a size limit: the kernel's limit is then the pod's memory or the node's.
        (f"{keys.VOLUME_PREFIX}shm", keys.SHARED_MEMORY, {"emptyDir": {"medium": "Memory"}}),
    )
    return tuple(Mounted(name=name, path=path, source=source) for name, path, source in places)


def model_cache(job: FineTuneJob) -> tuple[Mounted, ...]:
    """The cache of weights, if there is one, for pods that read weights. A claim that one node holds would bind CPU pods to that node."""
    cache = job.spec.model.cache
    if cache is None:
        return ()
    return (Mounted(name=f"{keys.VOLUME_PREFIX}model-cache", path=keys.MODEL_CACHE_FOLDER, source=_claim(cache.claim_name)),)


def temporary() -> Mounted:
    """A place to write for a pod that needs no more."""
    return Mounted(name=f"{keys.VOLUME_PREFIX}tmp", path=keys.TEMPORARY_FOLDER, source={"emptyDir": {}})


def job_file() -> Mounted:
    """The job as a file, from the pod's own annotation: there is no object that has to be made and kept beside the pod."""
    field = {"fieldPath": f"metadata.annotations['{keys.JOB_SPEC_ANNOTATION}']"}
    source = {"downwardAPI": {"items": [{"path": keys.JOB_FILE, "fieldRef": field}]}}
    return Mounted(name=f"{keys.VOLUME_PREFIX}job", path=keys.JOB_FOLDER, source=source, read_only=True)


def run_file(run_name: str) -> Mounted:
    """The frozen run as a file."""
    source = {"configMap": {"name": run_name, "items": [{"key": keys.RUN_FILE, "path": keys.RUN_FILE}], "optional": False}}
    return Mounted(name=f"{keys.VOLUME_PREFIX}run", path=keys.RUN_FOLDER, source=source, read_only=True)


def token() -> Mounted:
    """The service account's token as a file, with what a client needs besides: the API server's certificate and the namespace."""
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    source = {"projected": {"sources": sources, "defaultMode": _GROUP_READS}}
    return Mounted(name=f"{keys.VOLUME_PREFIX}token", path=keys.TOKEN_FOLDER, source=source, read_only=True)


# ---- Secrets


def preparation_secrets(job: FineTuneJob) -> tuple[Mounted, ...]:
    """Preparation tries everything that is used later: model, data, storage, the judge's key, and whether the place of publication may
    be written.
    """
    later = [*_judge_secrets(job), *_publication_secrets(job)]
    return _secret_folders([*_storage_secrets(job), *_model_secrets(job), *_data_secrets(job), *later])


def training_secrets(job: FineTuneJob) -> tuple[Mounted, ...]:
    """Training fetches prepared data and the base model, and writes checkpoints."""
    return _secret_folders([*_storage_secrets(job), *_model_secrets(job)])


def evaluation_secrets(job: FineTuneJob) -> tuple[Mounted, ...]:
    """Evaluation reads a checkpoint and the base model, writes its figures, and asks a judge.

    For benchmarks it looks into the training data, too, where the keys of that are still there: else it says that it couldn't.
    """
    looked_into = [*_data_secrets(job)] if job.spec.evaluation.tasks else []
    return _secret_folders([*_storage_secrets(job), *_model_secrets(job), *_judge_secrets(job)], looked_into)


def publication_secrets(job: FineTuneJob) -> tuple[Mounted, ...]:
    """Publication reads a checkpoint and the base model's tokenizer, and writes to the Hub or to object storage."""
    return _secret_folders([*_storage_secrets(job), *_model_secrets(job), *_publication_secrets(job)])


Named = SecretKey | SecretName | NamedVolume


def _storage_secrets(job: FineTuneJob) -> Iterator[Named | None]:
    yield job.spec.checkpoints.credentials_secret
    yield job.spec.checkpoints.ca_bundle


def _model_secrets(job: FineTuneJob) -> Iterator[Named | None]:
    yield job.spec.model.token_secret


def _data_secrets(job: FineTuneJob) -> Iterator[Named | None]:
    for source in job.spec.dataset.sources:
        yield source.token_secret
        yield source.credentials_secret


def _judge_secrets(job: FineTuneJob) -> Iterator[Named | None]:
    if job.spec.evaluation.judge is not None:
        yield job.spec.evaluation.judge.api_key_secret


def _publication_secrets(job: FineTuneJob) -> Iterator[Named | None]:
    if job.spec.publish.hub is not None:
        yield job.spec.publish.hub.token_secret
    if job.spec.publish.storage is not None:
        yield job.spec.publish.storage.credentials_secret
        yield job.spec.publish.storage.ca_bundle


def _secret_folders(named: Iterable[Named | None], if_there: Iterable[Named | None] = ()) -> tuple[Mounted, ...]:
    """One folder a name. A pod waits for what is missing, but for what it reads only `if_there`.

    The trainer looks for a CA bundle in the same place as for Secrets, and a ConfigMap may share a Secret's name.
    """
    needed = [one for one in named if one is not None]
    found = [*needed, *(one for one in if_there if one is not None)]
    names = {one.name for one in needed}
    folders = []
    # The name has up to 253 characters, a volume's 63: so the volume is numbered.
    for number, name in enumerate(sorted({one.name for one in found})):
        kinds = sorted({"configMap" if isinstance(one, NamedVolume) else "secret" for one in found if one.name == name})
        sources = [{kind: {"name": name, "optional": name not in names}} for kind in kinds]
        source = {"projected": {"sources": sources, "defaultMode": _GROUP_READS}}
        path = f"{keys.SECRETS_FOLDER}/{name}"
        folders.append(Mounted(name=f"{keys.VOLUME_PREFIX}secret-{number}", path=path, source=source, read_only=True))
    return tuple(folders)


# ---- the user's


def users(settings: PodSettings) -> tuple[Mounted, ...]:
    """What the user mounts in these pods."""
    return tuple(
        Mounted(
            name=volume.name,
            path=volume.mount_path,
            source=_source(volume),
            read_only=volume.read_only,
            sub_path=volume.sub_path,
        )
        for volume in settings.volumes
    )


def _source(volume: Volume) -> Manifest:
    if volume.persistent_volume_claim is not None:
        return _claim(volume.persistent_volume_claim.claim_name)
    if volume.config_map is not None:
        return {"configMap": {"name": volume.config_map.name, "optional": False}}
    if volume.secret is not None:
        return {"secret": {"secretName": volume.secret.name, "optional": False, "defaultMode": _GROUP_READS}}
    if volume.ephemeral is not None:
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": volume.ephemeral.size}}}
        storage_class = volume.ephemeral.storage_class_name
        named = {"storageClassName": storage_class} if storage_class is not None else {}
        return {"ephemeral": {"volumeClaimTemplate": {"spec": claim | named}}}
    if volume.csi is not None:
        # A driver is told on its volume that nobody writes, not on the mount alone.
        return {"csi": volume.csi.model_dump(by_alias=True, exclude_defaults=True) | ({"readOnly": True} if volume.read_only else {})}
    assert volume.empty_dir is not None, "the model allows exactly one source"
    limit = {"sizeLimit": volume.empty_dir.size_limit} if volume.empty_dir.size_limit else {}
    medium = {"medium": volume.empty_dir.medium} if volume.empty_dir.medium else {}
    return {"emptyDir": medium | limit}


def _claim(name: str) -> Manifest:
    return {"persistentVolumeClaim": {"claimName": name}}
