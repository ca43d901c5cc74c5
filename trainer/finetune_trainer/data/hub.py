"""Rows of a data set on the Hugging Face Hub, read by the `datasets` library.

In: a Hub id with revision and config. Out: rows, and the commit that they come from: a branch may move while a job waits.
The library keeps what it downloaded and maps it into memory; `datasets` and `huggingface_hub` are imported only here, when used.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from finetune_api.errors import InvalidData
from finetune_api.finetunejob import DataSource
from finetune_trainer.data.arrow import BATCH_ROWS, table_rows
from finetune_trainer.data.cards import LONGEST_README, README
from finetune_trainer.data.raw_rows import Row
from finetune_trainer.data.splits import FALLBACK, fallback, no_split
from finetune_trainer.secrets import LOG_IN

Notice = Callable[[str], None]


def hub_rows(source: DataSource, split: str, token: str | None, notice: Notice) -> "HubRows":
    """The rows of a Hub data set at the commit that its revision names now. Raises InvalidData."""
    commit = _commit(source.path, source.revision, token)
    return library_rows(source.path, source.config, commit, split, token, notice)


def library_rows(name: str, config: str | None, commit: str | None, split: str, token: str | None, notice: Notice) -> "HubRows":
    """The rows of anything that `load_dataset` takes; without a commit, of a folder on the local disk. Raises InvalidData."""
    from datasets import get_dataset_split_names

    with _as_invalid_data(name, config, commit):
        known = get_dataset_split_names(name, config, revision=commit, token=token or False)
    if split not in known:
        other = FALLBACK.get(split)
        if other is None or other not in known:
            raise InvalidData(no_split(name, split, known))
        notice(fallback(name, split, other))
        split = other
    return HubRows(name=name, config=config, commit=commit, split=split, token=token)


def _commit(name: str, revision: str, token: str | None) -> str:
    """The commit of a branch or tag; one request, which also tells quickly whether there is a network."""
    from huggingface_hub import HfApi

    with _as_invalid_data(name, None, revision):
        # A full commit is asked for, too: that it exists and may be read is better known now than in the middle.
        commit = HfApi().dataset_info(name, revision=revision, token=token or False).sha
    assert commit is not None
    return commit


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRows:
    """Rows of one split, downloaded when they are first iterated."""

    name: str
    config: str | None
    commit: str | None
    split: str
    token: str | None = field(repr=False)

    def __iter__(self) -> Iterator[Row]:
        from datasets import load_dataset

        with _as_invalid_data(self.name, self.config, self.commit):
            dataset = load_dataset(self.name, self.config, split=self.split, revision=self.commit, token=self.token or False)
        if not len(dataset):
            raise InvalidData(f"{self.name}: split {self.split!r} is empty, it holds no row; give data or remove the source")
        tables = dataset.with_format("arrow").iter(batch_size=BATCH_ROWS)
        for number, data in enumerate(chain.from_iterable(map(table_rows, tables)), start=1):
            yield self.name, number, data

    def identity(self) -> str:
        """Name, config, split and commit."""
        return f"hub:{self.name}:{self.config or ''}:{self.split}@{self.commit}"

    def readme(self) -> str:
        """The data set's card at that commit."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library, whichever that is

        if self.commit is None:
            return ""
        try:
            path = hf_hub_download(self.name, README, repo_type="dataset", revision=self.commit, token=self.token or False)
            with Path(path).open(encoding="utf-8", errors="replace") as file:
                return file.read(LONGEST_README)
        except (HTTPError, OSError, ValueError, RuntimeError):  # there is none, or the Hub is away; the rows are what counts
            return ""


class DataUnreachable(InvalidData):
    """The Hub did not answer, or not with an answer: another try may go well."""

    @property
    def reason(self) -> str:
        return InvalidData.__name__


@contextmanager
def _as_invalid_data(name: str, config: str | None, revision: str | None) -> Iterator[None]:
    """Every way in which the Hub or the library refuses, as InvalidData with what to do."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library, whichever that is

    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError, DatasetsError) as error:
        if (refusal := _refusal(error, config, revision)) is not None:
            raise InvalidData(f"{name}: {refusal}") from error
        why = f"can't reach the Hub ({_first_line(error)}); check the network, or give a local folder (./name) or s3:// instead"
        raise DataUnreachable(f"{name}: {why}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)


def _refusal(error: Exception, config: str | None, revision: str | None) -> str | None:
    """What an error of the Hub or of the library means for the user; None when the Hub gave no answer that would stay the same."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub import errors as hub

    first_line = _first_line(error)
    status = error.response.status_code if isinstance(error, hub.HfHubHTTPError) and error.response is not None else None
    if isinstance(error, hub.GatedRepoError):
        return f"the data set is gated; accept its terms on the Hub, then {LOG_IN.format(field='tokenSecret')}"
    if isinstance(error, hub.RevisionNotFoundError):
        return f"no revision {revision!r}; give a branch, a tag or a full commit"
    if isinstance(error, hub.RepositoryNotFoundError | DatasetNotFoundError) or status in (401, 403):
        return f"no such data set on the Hub, or it is private; check the name, or {LOG_IN.format(field='tokenSecret')}"
    if isinstance(error, DatasetsError) or "onfig" in first_line:
        return f"{first_line}; check the data set and config ({config or 'none is set'})" + _known_configs(error)
    if isinstance(error, ConnectionError) or not isinstance(error, ValueError | RuntimeError):
        return None
    return first_line


def _known_configs(error: Exception) -> str:
    found = re.search(r"\[.*\]", str(error))
    return f"; it has {found.group()}" if found else ""
