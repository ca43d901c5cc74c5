"""A run's files on a node: prepared data and the base model, fetched once for all processes of the pod.

In: the frozen run and the pod's scratch folder. Out: Places, once everything is there and is what the run was planned with. The first
process fetches under a lock of the scratch folder, the others wait and find it. A folder on a volume is used where it is.

    <scratch>/prepared/<fingerprint>/      prepared data
    <scratch>/models/                      base models that were fetched, unless $FINETUNE_MODEL_CACHE names another folder
    <scratch>/models-found/<digest>        where the model of a revision is, and its digest; without it a download is not finished
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_api.checks import is_path
from finetune_api.errors import StorageFailed, TrainingFailed
from finetune_api.training_run import TrainingRun
from finetune_trainer.checkpoints.job_storage import job_storage, storage_at
from finetune_trainer.files.atomic import write_atomically
from finetune_trainer.model.hub import ModelUnreachable
from finetune_trainer.model.resolve import check_same, folder_revision, one_at_a_time, resolve_model
from finetune_trainer.pods.prepared_objects import fetch_prepared
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.errors import answered_before
from finetune_trainer.training.places import Places

# Set by the operator on workers, which alone read weights, when spec.model.cache names a volume.
MODEL_CACHE_ENV: Final = "FINETUNE_MODEL_CACHE"


@dataclass(frozen=True, slots=True)
class PodPlaces:
    """How each node of a cluster comes to its files. `scratch`: an absolute path that exists on every node, private to its pod."""

    scratch: str

    @property
    def base(self) -> str:
        return self.scratch

    @property
    def storage(self) -> str:
        return str(Path(self.scratch) / "storage")

    def here(self, run: TrainingRun, *, weights: bool) -> Places:
        """This node's files. Raises StorageFailed, InvalidModel or InvalidStorage; RunConflict when the base model has changed.

        All places were reached when the run was prepared. One that can't be now is StorageFailed or, if it is the Hub, TrainingFailed: the
        next attempt tries again.
        """
        scratch, secrets = Path(self.scratch), Secrets()
        with one_at_a_time(scratch / "fetching.lock"):
            objects = job_storage(run.job, base=scratch, default=Path(self.storage), secrets=secrets)
            prepared = fetch_prepared(objects, run.data.fingerprint, scratch / "prepared")
            try:
                with answered_before():
                    model = _model(run, scratch, secrets, weights=weights)
            except ModelUnreachable as error:
                raise TrainingFailed(str(error)) from error
        return Places(model=str(model), prepared=str(prepared), base=self.base, storage=self.storage, weights=weights)

    def nodes(self, run: TrainingRun) -> int:
        """As many as the run was planned for: one a pod."""
        return run.plan.nodes


def _model(run: TrainingRun, scratch: Path, secrets: Secrets, *, weights: bool) -> Path:
    """The folder of the run's base model, at the run's revision."""
    spec, record = run.job.spec.model, _record(run, scratch, weights=weights)
    # One with weights will do where none are needed.
    for known in {_record(run, scratch, weights=True), record}:
        if (earlier := _fetched_earlier(known)) is not None:
            return earlier
    found = resolve_model(
        spec,
        base=scratch,
        cache=Path(os.environ.get(MODEL_CACHE_ENV) or scratch / "models"),
        secrets=secrets,
        storage_opener=lambda url: storage_at(url, run.job, base=scratch, secrets=secrets),
        revision=run.model_revision,
        fetches_weights=weights,
    )
    check_same(spec, run.model_revision, found.revision)
    if not is_path(spec.name):  # a folder of the user's is not fetched, and so looked at each time
        _remember(record, found.folder)
    return found.folder


def _fetched_earlier(record: Path) -> Path | None:
    """The model that another process of this node fetched; None without one, or when that folder has changed since."""
    try:
        name, content = record.read_text(encoding="utf-8").splitlines()
        # Nobody changes a folder of a revision; but a cache is a volume, and others write to it.
        return Path(name) if folder_revision(Path(name)) == content else None
    except (OSError, ValueError):
        return None


def _remember(record: Path, folder: Path) -> None:
    """For the other processes of this node."""
    try:
        record.parent.mkdir(exist_ok=True)
        write_atomically(record, f"{folder}\n{folder_revision(folder)}\n")
    except OSError as error:
        raise StorageFailed(f"{record} can't be written: {error.strerror}; make room in {record.parent.parent}") from error


def _record(run: TrainingRun, scratch: Path, *, weights: bool) -> Path:
    spec = run.job.spec.model
    name = hashlib.sha256(f"{spec.name}\0{spec.initialization}\0{run.model_revision}".encode()).hexdigest()[:16]
    return scratch / "models-found" / (name if weights else f"{name}-without-weights")
