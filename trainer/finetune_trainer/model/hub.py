"""A base model on the Hugging Face Hub: its files at a commit, and the headers of weights that stay there.

In: `spec.model` and a revision. Out: a folder of the Hub's own cache. What is in the files is not known here. `huggingface_hub` is
imported when it is used; each way in which the Hub refuses is InvalidModel with what to do.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidModel
from finetune_api.finetunejob import BaseModelSpec
from finetune_trainer.model.headers import INDEX, SINGLE, SUFFIX, Shapes, Weights, damaged, weights_in_folder
from finetune_trainer.secrets import LOG_IN

# Whoever waits for a plan would rather be told that the Hub is away.
_CONFIG_SECONDS = 5.0


class ModelUnreachable(InvalidModel):
    """The Hub did not answer, or not with an answer: another try may go well."""

    @property
    def reason(self) -> str:
        return InvalidModel.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """What was fetched, and its commit; `weights` are in the folder, or still on the Hub."""

    folder: Path
    commit: str
    weights: Weights


def from_hub(
    spec: BaseModelSpec,
    revision: str,
    *,
    cache: Path | None,
    token: str | None,
    endpoint: str | None,
    patterns: Sequence[str],
    fetches_weights: bool,
) -> HubModel:
    """Fetch the files that `patterns` name into `cache`, None: the library's own. What is there already is not fetched again.

    Raises InvalidModel.
    """
    from huggingface_hub import HfApi, snapshot_download

    with _as_invalid_model(spec.name, revision):
        information = HfApi(endpoint=endpoint).model_info(spec.name, revision=revision, token=token or False, files_metadata=True)
    commit = information.sha
    assert commit is not None
    sizes = {sibling.rfilename: sibling.size for sibling in information.siblings or ()}
    if spec.initialization == "pretrained" and not sizes.keys() & {INDEX, SINGLE}:
        raise InvalidModel(f"model {spec.name} ({revision}) has no weights in safetensors; choose a revision or a model that has")
    fetches_weights = fetches_weights and spec.initialization == "pretrained"
    with _as_invalid_model(spec.name, revision):
        folder = Path(
            snapshot_download(
                spec.name,
                revision=commit,
                cache_dir=cache,
                token=token or False,  # the library has its own way to find one; ours is in secrets.py, for data and publication too
                endpoint=endpoint,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*", *([] if fetches_weights else [f"*{SUFFIX}"])],
            )
        )
    weights = weights_in_folder(folder) if fetches_weights else _weights_there(spec.name, commit, sizes, token, endpoint)
    return HubModel(folder=folder, commit=commit, weights=weights)


def hub_config(spec: BaseModelSpec, revision: str, *, token: str | None) -> Any:
    """config.json of a model on the Hub, or of the Hub's cache where there is no network; nothing else of it. Raises InvalidModel.

    Whether the Hub answers is asked first: a download of what isn't in the cache would try for 23 s (huggingface_hub 2.4).
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    with _as_invalid_model(spec.name, revision):
        try:
            HfApi().model_info(spec.name, revision=revision, token=token or False, timeout=_CONFIG_SECONDS)
            file = hf_hub_download(spec.name, "config.json", revision=revision, token=token or False)
        except HfHubHTTPError:
            raise
        except Exception:  # of its HTTP library, whichever that is, and where the network is switched off
            cached = try_to_load_from_cache(spec.name, "config.json", revision=revision)
            if not isinstance(cached, str):
                raise
            file = cached
        return json.loads(Path(file).read_text(encoding="utf-8"))


def _weights_there(name: str, commit: str, sizes: Mapping[str, int | None], token: str | None, endpoint: str | None) -> Weights:
    """Weights on the Hub. `sizes`: the commit's files and their bytes, None where the Hub doesn't tell."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    def header(file: str) -> Shapes:
        try:
            with _as_invalid_model(name, commit):
                found = HfApi(endpoint=endpoint).parse_safetensors_file_metadata(name, file, revision=commit, token=token or False).tensors
        except SafetensorsParsingError as error:
            raise damaged(f"model {name}: {file}") from error
        # The client keeps to itself how long the header is.
        size, end = sizes[file], max((tensor.data_offsets[1] for tensor in found.values()), default=0)
        if size is not None and size <= 8 + end:
            raise damaged(f"model {name}: {file}")
        return {tensor: tuple(entry.shape) for tensor, entry in found.items()}

    return Weights(where=f"model {name} ({commit})", names=sizes.keys(), header=header)


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
        return f"it is gated; accept its licence at {page}, then {LOG_IN.format(field='spec.model.tokenSecret')}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no revision {revision!r}; give a branch, a tag or a full commit"
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return f"no such model on the Hub, or it is private; check the name, or {LOG_IN.format(field='spec.model.tokenSecret')}"
    lasting = isinstance(error, ValueError) or (status is not None and status < 500 and status not in (408, 425, 429))
    return _unreachable(error) if lasting else None


def _unreachable(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), type(error).__name__)
    return f"can't be fetched from the Hub ({first_line}); check the network, or give a folder (./name) or s3:// instead"
