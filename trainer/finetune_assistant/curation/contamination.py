"""Contamination: rows that hold 13 words in a row of an evaluation set, so that a benchmark would measure memory.

In: files of evaluation sets, of any columns, and the words of rows. Out: each hit with its row, the set, the document there, and the words.
What is done about a row that has some is the caller's question.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finetune_api.errors import InvalidData
from finetune_assistant.curation.words import run_hashes, word_hashes, words
from finetune_trainer.data.files import file_rows
from finetune_trainer.data.raw_rows import Unreadable
from finetune_trainer.data.splits import SUFFIXES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from finetune_assistant.curation.words import Hashes

CONTAMINATED: Final = "holds words of an evaluation set"
WORDS: Final = 13  # as GPT-3's authors count (Brown et al. 2020, appendix C)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """Words that a row and a document of an evaluation set share: the longest run of them. Rows and documents count from 1."""

    source: str
    row: int
    evaluation_set: str
    document: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSets:
    """All runs of 13 words of the sets' documents. `short`: how many documents of each set have none, and can't be found by it."""

    names: tuple[str, ...]
    documents: tuple[int, ...]  # by set: how many there are
    short: tuple[int, ...]
    runs: "Hashes"  # [N], rising, each once
    places: "NDArray[np.int64]"  # [N, 2]: set and document where a run stands first

    def hits(self, source: str, row: int, text: str, hashes: "Hashes") -> list[Hit]:
        """One hit for each document that the row shares words with; `hashes` are those of the words of `text`."""
        import numpy as np

        found = run_hashes(hashes, WORDS)
        if not len(found) or not len(self.runs):
            return []
        at = np.searchsorted(self.runs, found)
        at[at == len(self.runs)] = 0
        positions = np.flatnonzero(self.runs[at] == found)
        if not len(positions):
            return []
        places = self.places[at[positions]].tolist()
        found_at = [(position, place[0], place[1]) for position, place in zip(positions.tolist(), places, strict=True)]
        return self._described(source, row, words(text), found_at)

    def _described(self, source: str, row: int, said: list[str], found: list[tuple[int, int, int]]) -> list[Hit]:
        """`found`: position in the row, set, document, by rising position."""
        longest: dict[tuple[int, int], range] = {}
        current: dict[tuple[int, int], range] = {}
        for position, *place in found:
            key = (place[0], place[1])
            before = current.get(key)
            start = before.start if before is not None and position <= before.stop - WORDS + 1 else position
            current[key] = range(start, position + WORDS)
            longest[key] = max(longest.get(key, range(0)), current[key], key=len)
        return [
            Hit(
                source=source,
                row=row,
                evaluation_set=self.names[evaluation_set],
                document=document,
                words=" ".join(said[run.start : run.stop]),
            )
            for (evaluation_set, document), run in longest.items()
        ]


def read_evaluation_sets(files: Sequence[Path]) -> EvaluationSets:
    """All texts of all columns of the files. Raises InvalidData for a file that can't be read or holds no text of 13 words."""
    import numpy as np

    documents, short, runs, places = [], [], [np.zeros(0, np.uint64)], [np.zeros((0, 2), np.int64)]
    for number, file in enumerate(files):
        count = without = 0
        for count, document in enumerate(_documents(file), start=1):
            found = np.concatenate([run_hashes(word_hashes(text), WORDS) for text in document] or runs[:1])
            without += not len(found)
            runs.append(found)
            places.append(np.tile(np.array([[number, count]], np.int64), (len(found), 1)))
        if count == without:
            raise InvalidData(
                f"{file}: none of its {count:,} documents has a text of {WORDS} words, by which rows are compared; leave it out"
            )
        documents.append(count)
        short.append(without)
    distinct, first = np.unique(np.concatenate(runs), return_index=True)
    return EvaluationSets(
        names=tuple(map(str, files)),
        documents=tuple(documents),
        short=tuple(short),
        runs=distinct,
        places=np.concatenate(places)[first],
    )


def _documents(file: Path) -> Iterator[list[str]]:
    """The texts of each row of a file. Raises InvalidData."""
    if not file.exists():
        raise InvalidData(f"{file}: there is no such file; correct the path")
    if not file.name.endswith(SUFFIXES):
        raise InvalidData(f"{file}: no evaluation set of a known format; convert it to one of {', '.join(SUFFIXES)}")
    for name, number, row in file_rows(file, str(file)):
        if isinstance(row, Unreadable):
            raise InvalidData(f"{name} row {number}: {row.reason}; correct the file")
        yield list(_texts(row))


def _texts(value: Any) -> Iterator[str]:
    """Every string in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
