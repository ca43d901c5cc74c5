"""Base models: from a name in the job to a checked folder on this disk.

In: `spec.model`. Out: ModelFiles. What would fail hours later is refused here: no such model or revision, a licence not
accepted, weights missing or cut off, no fast tokenizer. Reads headers of weights, never weights; no torch. Weights become tensors in
`weights.py`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.checks import is_path
from finetune_api.errors import InvalidModel, RunConflict, StorageFailed
from finetune_api.finetunejob import BaseModelSpec, ModelShape
from finetune_api.finetunejob.places import is_address
from finetune_api.json_text import json_value
from finetune_trainer.files.locks import NO_LOCKS, locked_in_turn
from finetune_trainer.model.headers import INDEX, SUFFIX, Weights, stored_tensors, weights_in_folder, weights_in_storage
from finetune_trainer.model.hub import from_hub
from finetune_trainer.model.shape import read_shape
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.protocol import Storage

# Everything that is read of a model; a repository's other formats and original weights stay where they are.
PATTERNS = ("*.json", f"*{SUFFIX}", "*.model", "*.txt", "*.jinja", "LICENSE*", "README.md")

_EDGE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A base model on this disk. `revision`: a commit of the Hub, or `sha256:...` of a folder or of an s3:// prefix."""

    folder: Path
    revision: str
    shape: ModelShape


def resolve_model(
    spec: BaseModelSpec,
    *,
    base: Path,
    cache: Path,
    secrets: Secrets,
    storage_opener: Callable[[str], Storage],
    revision: str | None = None,
    endpoint: str | None = None,
    fetches_weights: bool = True,
) -> ModelFiles:
    """Find or fetch the base model and check it. Relative directories start at `base`; what is fetched is kept under `cache`.

    `revision`: what an earlier call resolved to, so that a later one uses the same commit even if the branch has moved. A folder or an
    s3:// model has only its newest content: the caller compares, with `check_same`. `endpoint`: the Hub's address, None for the usual
    one (or HF_ENDPOINT). Without `fetches_weights` those of s3:// and the Hub are checked by their headers where they are, and the
    folder holds everything else: enough to prepare data and to export. Raises InvalidModel.
    """
    name = spec.name
    if is_address(name):
        return _from_storage(spec, cache, storage_opener(name), fetches_weights=fetches_weights)
    if is_path(name):
        return check_folder(base / name, spec)
    found = from_hub(
        spec,
        revision or spec.revision,
        cache=cache,
        token=secrets.hub_token(spec.token_secret, "spec.model.tokenSecret"),
        endpoint=endpoint,
        patterns=PATTERNS,
        fetches_weights=fetches_weights,
    )
    return check_folder(found.folder, spec, found.commit, found.weights)


def check_same(spec: BaseModelSpec, then: str, now: str) -> None:
    """Raise RunConflict unless the base model still has the revision that a run began with."""
    if then != now:
        raise RunConflict(
            f"the base model {spec.name} has changed since this run was prepared: revision {then} then, {now} now; "
            "put it back, or begin a new run, which needs checkpoint storage of its own"
        )


def check_folder(folder: Path, spec: BaseModelSpec, revision: str | None = None, weights: Weights | None = None) -> ModelFiles:
    """The model of `folder` with its shape; `weights` are there unless said otherwise.

    Raises InvalidModel when something is missing, damaged or not supported.
    """
    if not folder.is_dir():
        raise InvalidModel(f"model {spec.name}: {folder} is no directory; give a folder with config.json, a Hub id or s3://bucket/prefix")
    config = read_config(folder / "config.json")
    tensors = None
    if spec.initialization == "pretrained":
        index = read_config(folder / INDEX) if (folder / INDEX).is_file() else None
        tensors = stored_tensors(weights or weights_in_folder(folder), index)
    shape = read_shape(config, source=str(folder / "config.json"), tensors=tensors)
    if not (folder / "tokenizer.json").is_file():
        raise InvalidModel(f"model {spec.name}: {folder} has no tokenizer.json; save its fast tokenizer there (tokenizer.save_pretrained)")
    _compare(spec.shape, shape)
    return ModelFiles(folder=folder, revision=revision or folder_revision(folder), shape=shape)


def read_config(path: Path) -> dict[str, Any]:
    """A model's config.json. Raises InvalidModel."""
    try:
        config = json_value(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidModel(f"{path}: no such file; a model folder needs config.json") from None
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{path} can't be read: {error}; download the model again") from None
    if not isinstance(config, dict):
        raise InvalidModel(f"{path} holds no JSON object; download the model again")
    return config


def small_files(folder: Path) -> list[Path]:
    """What is read of a model but its weights."""
    return sorted({path for pattern in PATTERNS for path in folder.glob(pattern) if path.suffix != SUFFIX})


def folder_revision(folder: Path) -> str:
    """A digest of a model folder: all of its small files, and of its weights the size and the first and last MiB.

    Reading 32 GB to the end would cost a minute of every start; two models that differ differ here, short of malice.
    """
    digest = hashlib.sha256()
    for path in sorted(p for pattern in PATTERNS for p in folder.glob(pattern) if p.name != "README.md"):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for edge in _edges(path):
            digest.update(edge)
    return f"sha256:{digest.hexdigest()}"


def _edges(path: Path) -> tuple[bytes, bytes]:
    """The first MiB of a file, and of what is behind it the last."""
    with path.open("rb") as file:
        first = file.read(_EDGE_BYTES)
        file.seek(max(_EDGE_BYTES, path.stat().st_size - _EDGE_BYTES))
        return first, file.read()


def _compare(declared: ModelShape | None, found: ModelShape) -> None:
    """`spec.model.shape` was planned with; it must be the model's."""
    if declared is None:
        return
    pairs = [(field, getattr(declared, field), getattr(found, field)) for field in declared.model_dump(exclude_none=True)]
    wrong = ", ".join(f"{field} {said} (the model has {has})" for field, said, has in pairs if said != has)
    if not wrong:
        return
    raise InvalidModel(f"spec.model.shape is not this model's: {wrong}; remove spec.model.shape or correct it")


# ---- object storage


def stored_revision(objects: Mapping[str, tuple[int, str]]) -> str:
    """A digest of a model in object storage: name, size and version of each of its files, none of which is read."""
    named = "".join(f"{key}\0{size}\0{version}\0" for key, (size, version) in sorted(objects.items()) if key != "README.md")
    return f"sha256:{hashlib.sha256(named.encode()).hexdigest()}"


def _from_storage(spec: BaseModelSpec, cache: Path, storage: Storage, *, fetches_weights: bool) -> ModelFiles:
    """Fetch a model from object storage, unless it is in the cache. The folder is named by the revision: another job may read an older one.

    Several processes may ask at once, on several machines that share the cache: one fetches, the others wait. What a killed one left
    unfinished has another name, and is removed.
    """
    listed = {key: (size, version) for key, size, version in storage.versions() if "/" not in key}
    objects = {key: found for key, found in listed.items() if any(Path(key).match(pattern) for pattern in PATTERNS)}
    if "config.json" not in objects:
        raise InvalidModel(f"model {spec.name} holds no config.json; give the prefix of a model folder")
    revision = stored_revision(objects)
    folder = cache / hashlib.sha256(f"{spec.name}\0{revision}".encode()).hexdigest()[:16]
    try:
        with one_at_a_time(folder.with_suffix(".lock")):
            folder.mkdir(exist_ok=True)
            for stale in {path.name for path in folder.iterdir()} - objects.keys():
                (folder / stale).unlink()
            for key, (size, version) in objects.items():
                if key.endswith(SUFFIX) and (not fetches_weights or _has_same_edges(storage, key, size, folder / key)):
                    continue
                storage.get_file(key, folder / key, version)
    except OSError as error:
        why = f"model {spec.name} can't be kept in {cache} ({error})"
        raise StorageFailed(f"{why}; make room there, or let this user write there") from error
    sizes = {key: size for key, (size, _) in listed.items()}
    weights = weights_in_folder(folder) if fetches_weights else weights_in_storage(storage, sizes)
    return check_folder(folder, spec, revision, weights)


def _has_same_edges(storage: Storage, key: str, size: int, path: Path) -> bool:
    """Whether an object is, by its size and by what `folder_revision` reads of it, the file at `path`.

    The folder's name vouches for the object; this, for a file that may be cut off or altered in a cache that others write to.
    """
    try:
        if path.stat().st_size != size:
            return False
        first, last = _edges(path)
    except FileNotFoundError:
        return False
    return storage.get(key, 0, _EDGE_BYTES) == first and storage.get(key, max(_EDGE_BYTES, size - _EDGE_BYTES), size) == last


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold a file's lock, after whoever holds it. The kernel lets go of it however the process ends. Raises StorageFailed."""
    with ExitStack() as turn:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            turn.enter_context(locked_in_turn(lock))
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise StorageFailed(f"{lock} can't be locked: {error.strerror}; use a folder on a volume with file locks") from error
            why = f"{lock.parent} can't be written: {error.strerror}"
            raise StorageFailed(f"{why}; make room there, or let this user write there") from error
        yield
