"""Base models: from a name in the job to a checked folder on this disk.

In: `spec.model`. Out: ModelFiles. What would fail hours later is refused here: no such model or revision, a licence not
accepted, weights missing or cut off, no fast tokenizer. Reads headers of weights, never weights; no torch. Weights become tensors in
`weights.py`.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.checks import is_path
from finetune_api.errors import InvalidModel, StorageFailed
from finetune_api.finetunejob import BaseModelSpec, ModelShape
from finetune_trainer.model_shape import read_shape
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage import Storage

# Everything that is read of a model; a repository's other formats and original weights stay where they are.
PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "LICENSE*", "README.md")

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_WEIGHTS = ".safetensors"
_EDGE_BYTES = 2**20


class ModelUnreachable(InvalidModel):
    """The Hub did not answer, or not with an answer: another try may go well."""

    @property
    def reason(self) -> str:
        return InvalidModel.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A base model on this disk. `revision`: a commit of the Hub, or `sha256:...` of a folder."""

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
) -> ModelFiles:
    """Find or fetch the base model and check it. Relative directories start at `base`; what is fetched is kept under `cache`.

    `revision`: what an earlier call resolved to, so that a later one uses the same commit even if the branch has moved. A folder or an
    s3:// model has only its newest content: the caller compares. With `revision`, weights of s3:// that an earlier call fetched are
    kept while size and first and last MiB are those in storage, which is all that tells revisions apart; without it all is fetched anew.
    `endpoint`: the Hub's address, None for the usual one (or HF_ENDPOINT). Raises InvalidModel.
    """
    name = spec.name
    if name.startswith("s3://"):
        return check_folder(_from_storage(name, cache, storage_opener(name), keeps_weights=revision is not None), spec)
    if is_path(name):
        return check_folder(base / name, spec)
    token = secrets.hub_token(spec.token_secret, "spec.model.tokenSecret")
    folder, commit = _from_hub(spec, revision or spec.revision, cache, token, endpoint)
    return check_folder(folder, spec, revision=commit)


def check_folder(folder: Path, spec: BaseModelSpec, revision: str | None = None) -> ModelFiles:
    """The model of `folder` with its shape. Raises InvalidModel when something is missing, damaged or not supported."""
    if not folder.is_dir():
        raise InvalidModel(f"model {spec.name}: {folder} is no directory; give a folder with config.json, a Hub id or s3://bucket/prefix")
    config = read_config(folder / "config.json")
    tensors = stored_tensors(folder) if spec.initialization == "pretrained" else None
    shape = read_shape(config, source=str(folder / "config.json"), tensors=tensors)
    if not (folder / "tokenizer.json").is_file():
        raise InvalidModel(f"model {spec.name}: {folder} has no tokenizer.json; save its fast tokenizer there (tokenizer.save_pretrained)")
    _compare(spec.shape, shape)
    return ModelFiles(folder=folder, revision=revision or folder_revision(folder), shape=shape)


def read_config(path: Path) -> dict[str, Any]:
    """A model's config.json. Raises InvalidModel."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidModel(f"{path}: no such file; a model folder needs config.json") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidModel(f"{path} can't be read: {error}; download the model again") from None
    if not isinstance(config, dict):
        raise InvalidModel(f"{path} holds no JSON object; download the model again")
    return config


def stored_tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the folder's safetensors, from their headers. Raises InvalidModel for missing or cut files."""
    tensors: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(folder):
        tensors.update(_header(path))
    return tensors


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


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _INDEX).is_file():
        shards = sorted(set(read_config(folder / _INDEX).get("weight_map", {}).values()))
        if missing := [shard for shard in shards if not (folder / shard).is_file()]:
            raise InvalidModel(f"{folder} lacks {', '.join(missing[:3])}, which {_INDEX} names; download the model again")
        return [folder / shard for shard in shards]
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    pickled = any(folder.glob("pytorch_model*.bin"))
    remedy = (
        "save it again with safetensors (model.save_pretrained)" if pickled else "download them, or set spec.model.initialization: random"
    )
    raise InvalidModel(f"{folder} has no weights in safetensors; {remedy}")


def _header(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of each tensor: 8 bytes of length, then JSON; the last tensor's end must be the file's."""
    damaged = InvalidModel(f"{path} is damaged or cut off; download it again")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            raise damaged
        try:
            header = json.loads(file.read(length))
            found = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in found.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise damaged from None
    if size != 8 + length + end:
        raise damaged
    return ((name, tuple(entry["shape"])) for name, entry in found.items())


def _compare(declared: ModelShape | None, found: ModelShape) -> None:
    """`spec.model.shape` was planned with; it must be the model's."""
    if declared is None or declared == found:
        return
    pairs = [(field, getattr(declared, field), getattr(found, field)) for field in type(found).model_fields]
    wrong = ", ".join(f"{field} {said} (the model has {has})" for field, said, has in pairs if said != has)
    raise InvalidModel(f"spec.model.shape is not this model's: {wrong}; remove spec.model.shape or correct it")


def _from_storage(url: str, cache: Path, storage: Storage, *, keeps_weights: bool) -> Path:
    """Fetch a model from object storage to a folder of its own; `keeps_weights`: only those that differ from what is there.

    Several processes may ask at once, on several machines that share the cache: one fetches, the others wait. What a killed one left
    unfinished has another name, and is removed.
    """
    folder = cache / hashlib.sha256(url.encode()).hexdigest()[:16]
    sizes = {key: size for key, size in storage.list() if "/" not in key and any(Path(key).match(pattern) for pattern in PATTERNS)}
    if "config.json" not in sizes:
        raise InvalidModel(f"model {url} holds no config.json; give the prefix of a model folder")
    try:
        with one_at_a_time(folder.with_suffix(".lock")):
            folder.mkdir(exist_ok=True)
            for stale in {path.name for path in folder.iterdir()} - sizes.keys():
                (folder / stale).unlink()
            for key, size in sizes.items():
                if not (keeps_weights and key.endswith(_WEIGHTS) and _has_same_edges(storage, key, size, folder / key)):
                    storage.get_file(key, folder / key)
    except OSError as error:
        raise StorageFailed(f"model {url} can't be kept in {cache} ({error}); make room there, or let this user write there") from error
    return folder


def _has_same_edges(storage: Storage, key: str, size: int, path: Path) -> bool:
    """Whether an object is, by its size and by what `folder_revision` reads of it, the file at `path`."""
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
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageFailed(f"{lock.parent} can't be written: {error.strerror}; make room there, or let this user write there") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise StorageFailed(f"{lock} can't be locked: {error.strerror}; use a folder on a volume with file locks") from error
        yield
    finally:
        os.close(descriptor)


def _from_hub(spec: BaseModelSpec, revision: str, cache: Path, token: str | None, endpoint: str | None) -> tuple[Path, str]:
    """Fetch a model from the Hub: its folder and its commit. Files that are there already are not fetched again."""
    from huggingface_hub import HfApi, snapshot_download

    with _as_invalid_model(spec.name, revision):
        information = HfApi(endpoint=endpoint).model_info(spec.name, revision=revision, token=token or False)
    commit = information.sha
    assert commit is not None
    names = {sibling.rfilename for sibling in information.siblings or ()}
    if spec.initialization == "pretrained" and not names & {_INDEX, _SINGLE}:
        raise InvalidModel(f"model {spec.name} ({revision}) has no weights in safetensors; choose a revision or a model that has")
    ignored = ["*.safetensors"] if spec.initialization == "random" else ["*/*"]
    with _as_invalid_model(spec.name, revision):
        folder = snapshot_download(
            spec.name,
            revision=commit,
            cache_dir=cache,
            token=token or False,  # never one that a login left behind: a pod has none
            endpoint=endpoint,
            allow_patterns=list(PATTERNS),
            ignore_patterns=ignored,
        )
    return Path(folder), commit


@contextmanager
def _as_invalid_model(name: str, revision: str) -> Iterator[None]:
    """Every way in which the Hub refuses, as InvalidModel with what to do."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library, whichever that is

    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        kind = InvalidModel if (why := _refusal(error, name, revision)) else ModelUnreachable
        raise kind(f"model {name}: {why or _unreachable(error)}") from error


def _refusal(error: Exception, name: str, revision: str) -> str | None:
    """What the Hub refuses, and what to do; None when it gave no answer that would stay the same."""
    from huggingface_hub import HfApi, errors

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) and error.response is not None else None
    if isinstance(error, errors.GatedRepoError):
        page = f"{HfApi().endpoint}/{name}"
        return f"it is gated; accept its licence at {page}, then set spec.model.tokenSecret (or HF_TOKEN) to a token of that account"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no revision {revision!r}; give a branch, a tag or a full commit"
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return "no such model on the Hub, or it is private; check the name, or set spec.model.tokenSecret to a token that may read it"
    lasting = isinstance(error, ValueError) or (status is not None and status < 500 and status not in (408, 425, 429))
    return _unreachable(error) if lasting else None


def _unreachable(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), type(error).__name__)
    return f"can't be fetched from the Hub ({first_line}); check the network, or give a folder (./name) or s3:// instead"
