"""A playground as a Space on the Hub: the same code, told what to load, in a repository that a Space's machine runs.

In: a Start whose models are on the Hub. Out: one commit with app.py, requirements.txt, a README.md with what the Hub wants to know, and the
packages that the page consists of, as they are here. What a Space's machine is, and what it costs, its owner chooses on the Hub.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from finetune_api.errors import InvalidPublication
from finetune_assistant.playground.layout import DISCLAIMER
from finetune_assistant.playground.start import Start
from finetune_trainer.publishing.hub_client import PATIENCE, Patience, hub_client, repeated

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Result = TypeVar("Result")
MARK: Final = "<!-- finetune playground -->"
README: Final = "README.md"
# What the page imports, and what an answer's program may; gradio comes with the Space.
REQUIREMENTS: Final = (
    *("torch", "transformers", "safetensors", "huggingface-hub", "filelock", "jinja2", "markdownify", "pydantic", "pyyaml"),
    *("pandas", "matplotlib", "seaborn", "geopandas"),
)
PACKAGES: Final = ("finetune_api", "finetune_assistant", "finetune_trainer")
# What stays when a Space sleeps, where its owner added storage.
STORAGE: Final = "/data"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSpace:
    """Where a Space is. `private_models`: those that it needs a token for."""

    url: str
    revision: str
    created: bool
    private_models: tuple[str, ...]


def space_files(start: Start, title: str) -> dict[str, bytes]:
    """The files of a Space, by path."""
    metadata = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": "3.12",
        "app_file": "app.py",
        "license": "apache-2.0",
        "models": [name for name in (start.model, start.base) if name is not None],
    }
    # JSON is YAML, and quotes what a name may hold.
    head = "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in metadata.items())
    text = f"---\n{head}---\n{MARK}\n\n# {title}\n\nA page to talk to {' and '.join(metadata['models'])}. {DISCLAIMER}\n"
    requirements = "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in REQUIREMENTS)
    files = {README: text, "app.py": _application(start), "requirements.txt": requirements}
    return {name: content.encode() for name, content in files.items()} | _packages()


def _application(start: Start) -> str:
    return f'''"""The page of `finetune playground`, as `--space` wrote it."""

import os
import threading
from dataclasses import replace
from pathlib import Path

from finetune_assistant.inference.sampling import Sampling
from finetune_assistant.playground.start import Start, playground
from finetune_assistant.serving.ports import bound

start = {replace(start, votes=None)!r}
if start.base is not None:
    start = replace(start, votes="{STORAGE}/votes.jsonl" if Path("{STORAGE}").is_dir() else "votes.jsonl")
listener = bound(os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"), int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
with playground(start, listener, told=print) as at:
    print(at.url, flush=True)
    threading.Event().wait()
'''


def _packages() -> dict[str, bytes]:
    """The packages' files, as they are installed here."""
    root = Path(__file__).resolve().parents[2]
    import finetune_api

    places = {name: root / name for name in PACKAGES} | {"finetune_api": Path(finetune_api.__file__).resolve().parent}
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for name, folder in places.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def publish_space(
    start: Start,
    repository: str,
    token: str | None,
    *,
    private: bool = True,
    endpoint: str | None = None,
    patience: Patience = PATIENCE,
) -> PublishedSpace:
    """One commit on branch main; the Space is created where there is none. Raises InvalidPublication or PublicationFailed."""
    for name in (start.model, start.base):
        if name is not None and Path(name).exists():
            raise InvalidPublication(f"{name} is a folder of this machine; publish it with `finetune publish`, and name it as on the Hub")
    if start.prompt is not None and Path(start.prompt).exists():
        raise InvalidPublication(f"--prompt {start.prompt} is a file of this machine; a Space takes general or coding")
    with hub_client(token, repository, endpoint) as api:

        def act(do: Callable[[], Result]) -> Result:
            return repeated(api, f"Space {repository}", patience, do)

        private_models = tuple(name for name in (start.model, start.base) if name is not None and act(partial(_is_private, api, name)))
        exists = act(partial(_check, api, repository, private))
        files = space_files(start, repository.rpartition("/")[2])
        if not exists:
            act(lambda: api.create_repo(repository, repo_type="space", space_sdk="gradio", private=private, exist_ok=True))
        revision = act(lambda: _commit(api, repository, files))
        url = f"{api.endpoint}/spaces/{repository}"
    return PublishedSpace(url=url, revision=revision, created=not exists, private_models=private_models)


def _is_private(api: "HfApi", model: str) -> bool:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return bool(api.model_info(model).private)
    except RepositoryNotFoundError:
        raise InvalidPublication(
            f"{model} is no model on the Hub that this token may read; publish it first with `finetune publish`"
        ) from None


def _check(api: "HfApi", repository: str, private: bool) -> bool:
    """Whether the Space exists. Raises InvalidPublication where it is somebody else's work, or public against the wish."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.space_info(repository)
    except RepositoryNotFoundError:
        return False
    if private and not info.private:
        raise InvalidPublication(f"{repository} is public; say --public if the world may see the page, or name another Space")
    names = {file.rfilename for file in info.siblings or ()}
    if README in names:
        # A Space that was made on the Hub's page has a README of the Hub's, and perhaps work of its owner's.
        path = api.hf_hub_download(repository, README, repo_type="space", revision=info.sha)
        if MARK in Path(path).read_text(encoding="utf-8", errors="replace"):
            return True
    if names - {".gitattributes"}:
        raise InvalidPublication(f"{repository} is a Space that `finetune playground --space` did not write; name another")
    return True


def _commit(api: "HfApi", repository: str, files: dict[str, bytes]) -> str:
    """The commit's id. Of earlier versions' packages nothing stays; what others added beside them does."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    info = api.space_info(repository)
    stale = [file.rfilename for file in info.siblings or () if file.rfilename.split("/")[0] in PACKAGES and file.rfilename not in files]
    operations = [CommitOperationDelete(path_in_repo=name) for name in stale]
    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    commit = api.create_commit(
        repository, [*operations, *added], commit_message="A playground", repo_type="space", revision="main", parent_commit=info.sha
    )
    return commit.oid
