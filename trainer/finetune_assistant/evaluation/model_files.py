"""The model that is evaluated, before it is loaded: its folder or name, and what identifies its content.

In: what a user types. Out: a place that Transformers loads from, checked as far as files tell: whole weights, a tokenizer. Nothing is
loaded.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from finetune_api.errors import InvalidModel
from finetune_assistant.inference.loading import TEMPLATE_FILE, check_weights, model_place

# Each is a tokenizer by itself; the first is what nearly all models have.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
_WEIGHTS = "*.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """`place` is a folder, or a name on the Hub. `run_folder`: of the run whose model it is.

    `digest`: sha256 over a folder's weights, configuration and tokenizer; None on the Hub.
    """

    name: str
    place: str
    run_folder: Path | None
    digest: str | None
    revision: str | None

    @property
    def folder(self) -> Path | None:
        """None for a model on the Hub."""
        return Path(self.place) if Path(self.place).is_dir() else None


def model_files(name: str, *, revision: str | None = None) -> ModelFiles:
    """A folder of ours or of others, or a name on the Hub. Raises InvalidModel when it can't be a whole model."""
    place = model_place(name)
    folder = Path(place)
    is_folder = folder.is_dir()
    if is_folder:
        _refuse_incomplete(name, folder)
    return ModelFiles(
        name=name,
        place=place,
        run_folder=next((each for each in (Path(name), Path(name).parent) if is_folder and (each / "run.json").is_file()), None),
        digest=_digest(folder) if is_folder else None,
        revision=None if is_folder else revision,
    )


def _refuse_incomplete(name: str, folder: Path) -> None:
    """Pickled weights, which a chat may load, are refused too: the digest is not over them."""
    from finetune_trainer.model.headers import INDEX, SINGLE

    if not any((folder / file).is_file() for file in _TOKENIZERS):
        raise InvalidModel(f"{name} has no tokenizer (no tokenizer.json in {folder}); copy it there from the model that it comes from")
    if not any((folder / file).is_file() for file in (INDEX, SINGLE)):
        raise InvalidModel(f"{name} has no weights (no {SINGLE} in {folder}); fetch the model again")
    check_weights(folder)


def _digest(folder: Path) -> str:
    """Over names and contents, in the order of names. Reading the weights here is what loading them would have waited for."""
    files = [folder / "config.json", *(folder / file for file in _TOKENIZERS), *folder.glob(_WEIGHTS)]
    whole = hashlib.sha256()
    for path in sorted(set(files)):
        if path.is_file():
            with path.open("rb") as file:
                whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def tokenizer_folder(files: ModelFiles) -> Path:
    """Where tokenizer.json and templates are: the model's folder, or the one in the Hub's cache. Raises InvalidModel."""
    if files.folder is not None:
        return files.folder
    from transformers.utils import cached_file

    try:
        found = [cached_file(files.place, name, revision=files.revision) for name in ("tokenizer.json", "tokenizer_config.json")]
        cached_file(files.place, TEMPLATE_FILE, revision=files.revision, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise InvalidModel(f"{files.name} has no tokenizer.json, which perplexity needs; leave --perplexity out ({error})") from error
    return Path(str(found[0])).parent
