"""What an export needs beside the weights, kept with them: the frozen run, the base model's small files, what is known of the data.

    run/base/<file>    config, tokenizer, licence of the base model: everything but its weights
    run/meta.json      of the prepared data: how many rows, what was dropped
    run/run.json       the frozen run; written last, so that without it there is nothing

Each start of workers writes it, under its claim, so a checkpoint can be exported from anywhere as long as its storage is there: the
base model's folder may be on another machine by then, or gone from the Hub.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from finetune_api.errors import InvalidStorage, InvalidTrainingRun
from finetune_api.training_run import TrainingRun
from finetune_trainer.storage.errors import MissingObject
from finetune_trainer.storage.protocol import Storage

RUN_KEY: Final = "run/run.json"
META_KEY: Final = "run/meta.json"
BASE_PREFIX: Final = "run/base/"


def keep_run(storage: Storage, run: TrainingRun, base_files: Iterable[Path], meta: Path) -> None:
    """Write the record of a run whose prefix it is, unless that very record is there."""
    text = run.to_json().encode()
    if storage.exists(RUN_KEY) and storage.get(RUN_KEY) == text:
        return
    storage.delete([RUN_KEY])
    for path in base_files:
        storage.put_file(f"{BASE_PREFIX}{path.name}", path)
    storage.put_file(META_KEY, meta)
    storage.put_stream(RUN_KEY, [text])


def kept_run(storage: Storage) -> TrainingRun:
    """The run that trains, or has trained, in this prefix. Raises InvalidStorage when there is none."""
    where = f"{storage.place.fields.storage}={storage.url}"
    try:
        return TrainingRun.from_json(storage.get(RUN_KEY))
    except MissingObject:
        raise InvalidStorage(
            f"{where} holds no run: there is no {RUN_KEY}; give the prefix that spec.checkpoints.storage names, once workers have started"
        ) from None
    except InvalidTrainingRun as error:
        raise InvalidTrainingRun(f"{where}: {error}") from None


def fetch_base(storage: Storage, folder: Path) -> Path:
    """The base model's small files, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, _ in storage.list(BASE_PREFIX):
        name = key.removeprefix(BASE_PREFIX)
        if "/" not in name:
            storage.get_file(key, folder / name)
    return folder
