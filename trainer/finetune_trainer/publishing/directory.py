"""Publication to a directory: a copy of the exported folder that appears whole or not at all, and is compared file by file."""

import hashlib
import shutil
from pathlib import Path

from finetune_api.errors import InvalidPublication, PublicationFailed
from finetune_api.finetunejob import DirectoryPublication
from finetune_trainer.publishing.changes import Publication
from finetune_trainer.publishing.model_folder import RECORD_NAME, checked_exported, folder_put_in_place, read_exported


def publish_to_directory(folder: Path, destination: Path) -> Publication:
    """Copy an exported folder to `destination`, whole or not at all, and compare the copy file by file.

    An earlier publication of the same job is replaced; any other folder that isn't empty is refused with InvalidPublication.
    """
    record = checked_exported(folder)
    if destination.resolve() == folder.resolve():
        raise InvalidPublication(f"{destination} is the exported model itself; choose another directory")
    check_directory(destination, record.job)
    try:
        with folder_put_in_place(destination) as new:
            for path in record.files:
                (new / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / path, new / path)
            (new / RECORD_NAME).write_text(record.to_json())
            if checked_exported(new) != record:
                raise PublicationFailed(f"the copy in {destination} differs from {folder}; check that disk and try again")
    except OSError as error:
        raise PublicationFailed(
            f"{destination} can't be written: {error.strerror or error}; the exported model is kept in {folder}"
        ) from error
    return Publication(
        repository=str(destination),
        revision=hashlib.sha256(record.to_json().encode()).hexdigest(),
        url=destination.resolve().as_uri(),
        sent=tuple(record.files),
        sent_bytes=sum(digest.size for digest in record.files.values()),
    )


def publication_directory(directory: DirectoryPublication, base: Path) -> Path:
    """The directory that a job means: `~` is the user's home, and relative paths begin at `base`. Raises InvalidPublication."""
    try:
        return (base / Path(directory.path).expanduser()).resolve()
    except RuntimeError:
        raise InvalidPublication(f"spec.publish.directory.path={directory.path}: there is no such home; write a whole path") from None


def check_directory(destination: Path, job: str) -> None:
    """Refuse with InvalidPublication a directory that holds something else than this job's model."""
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if not (destination / RECORD_NAME).is_file():
        raise InvalidPublication(f"{destination} exists and holds no model of ours; choose another directory or remove it")
    other = read_exported(destination).job
    if other != job:
        raise InvalidPublication(f"{destination} holds the model of job {other}, not of {job}; choose another directory")
