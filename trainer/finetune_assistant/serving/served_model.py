"""The model that is served, before any server starts: found, whole, with a chat template, and under a name.

In: what a user types. Out: a folder of whole files, the ids at which its answers end, and a copy of that folder made of links, laid out as
a cache of the Hub that holds this one model. So a server is told a short name and no path, lists this model alone, and asks no network; and
its generation config has every stop that `finetune chat` goes by. Servers are unknown here.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.errors import InvalidInput, InvalidModel
from finetune_api.finetunejob import BaseModelSpec
from finetune_api.finetunejob.places import is_address
from finetune_assistant.inference.loading import TEMPLATE_FILE, check_weights, model_place
from finetune_assistant.inference.prompting import ForeignPrompter, Prompter, TrainedPrompter
from finetune_assistant.inference.sampling import end_ids
from finetune_trainer.storage.protocol import Storage

GENERATION_FILE: Final = "generation_config.json"
_REVISION: Final = "0" * 40  # the Hub's cache names each state of a model by a commit
# The Hub's rule for names (huggingface_hub 2.4), by which Transformers finds a model in that cache.
_NAME: Final = re.compile(r"(?!.*(?:--|\.\.))\w[\w.-]{0,47}(?:/\w[\w.-]{0,47})?(?<![.-])", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """`stop_ids`: all ids at which an answer ends. `notes`: what a user should know, as sentences."""

    name: str
    folder: Path
    stop_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


def served_model(model: str, *, revision: str | None, name: str | None, open_storage: Callable[[str], Storage]) -> ServedModel:
    """Find the model, fetch it where it is on the Hub or in object storage, and check it. `name`: what requests call it; None: its own.

    Raises InvalidModel, also where the model has no chat template, and InvalidInput for such a name.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise InvalidInput(f"--served-model-name {name} is no name as on the Hub; use letters, digits, ., _ and -, with one / at most")
    folder = _folder(model, revision, open_storage)
    written = _json(folder / GENERATION_FILE).get("eos_token_id") or _json(folder / "config.json").get("eos_token_id")
    stops = end_ids(written, _prompter(folder, model).stop_ids)
    notes = (f"{model}: {GENERATION_FILE} lacks tokens at which its template ends an answer; they are served as stops, too",)
    more = len(stops) > len(end_ids(written, ()))
    return ServedModel(name=name or default_name(model), folder=folder, stop_ids=tuple(stops), notes=notes if more else ())


def default_name(model: str) -> str:
    """What requests call a model: a Hub's name as it is, of a place the last part that says something.

    >>> [default_name(model) for model in ("org/assistant", "/runs/tiny/model", "s3://bucket/my assistant v1.5/", "/--")]
    ['org/assistant', 'tiny', 'my-assistant-v1.5', 'model']
    """
    if not is_address(model) and not Path(model).is_absolute() and not Path(model).exists():
        return model
    parts = Path(model).parts if is_address(model) else Path(model).resolve().parts
    last = next((part for part in reversed(parts) if part != "model"), "")
    return "-".join(re.findall(r"\w+(?:\.\w+)*", last, re.ASCII))[:48].rstrip("-.") or "model"


@contextmanager
def as_hub_cache(served: ServedModel) -> Iterator[tuple[Path, Path]]:
    """A cache of the Hub with this model alone, and the model's folder in it; both are gone with the block."""
    with tempfile.TemporaryDirectory(prefix="finetune-serve-") as place:
        cache = Path(place)
        repository = cache / f"models--{served.name.replace('/', '--')}"
        folder = repository / "snapshots" / _REVISION
        folder.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(_REVISION, encoding="ascii")
        for path in served.folder.iterdir():
            if path.name != GENERATION_FILE and not path.name.startswith("."):
                (folder / path.name).symlink_to(path.resolve())
        generation = _json(served.folder / GENERATION_FILE) | {"eos_token_id": list(served.stop_ids)}
        (folder / GENERATION_FILE).write_text(json.dumps(generation, indent=2), encoding="utf-8")
        yield cache, folder


def _folder(model: str, revision: str | None, open_storage: Callable[[str], Storage]) -> Path:
    """Raises InvalidModel."""
    from finetune_trainer.model.hub import from_hub
    from finetune_trainer.model.resolve import PATTERNS, resolve_model
    from finetune_trainer.secrets import Secrets

    if is_address(model):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune" / "models"
        spec = BaseModelSpec(name=model)
        return resolve_model(spec, base=Path(), cache=cache, secrets=Secrets(), storage_opener=open_storage).folder
    folder = Path(model_place(model, revision))
    if not folder.is_dir():
        spec, token = BaseModelSpec(name=model), Secrets().hub_token(None, "HF_TOKEN")
        at = revision or spec.revision
        return from_hub(spec, at, cache=None, token=token, endpoint=None, patterns=PATTERNS, fetches_weights=True).folder
    if not any(folder.glob("*.safetensors")):
        raise InvalidModel(f"{model} has no weights (no *.safetensors in {folder}); fetch the model again, or export it once more")
    check_weights(folder)
    return folder


def _prompter(folder: Path, model: str) -> Prompter:
    """How `finetune chat` would ask. Raises InvalidModel for a model without a chat template, or whose roles would be mistaken."""
    from transformers import AutoTokenizer

    if (folder / TEMPLATE_FILE).is_file():
        return TrainedPrompter(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidModel(f"{model}: its tokenizer can't be read ({reason}); fetch the model again") from error
    if not tokenizer.chat_template:
        raise InvalidModel(
            f"{model} has no chat template, by which a server would make a prompt of messages; fine-tune it with `finetune run`, "
            f"or talk to it by dialogue prompting with `finetune chat {model}`"
        )
    return ForeignPrompter(tokenizer, model)


def _json(file: Path) -> dict[str, Any]:
    """Nothing where there is no such file. Raises InvalidModel."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{file} can't be read ({error}); fetch the model again") from None
    if not isinstance(found, dict):
        raise InvalidModel(f"{file} holds no JSON object; fetch the model again")
    return found
