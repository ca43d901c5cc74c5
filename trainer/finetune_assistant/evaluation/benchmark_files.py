"""Benchmarks in files of the user: found in a folder by their names, read, and brought into the columns that lm-eval's own tasks read.

In: a folder that was given as --task-data. Out: documents by split. Three forms are known of each benchmark where there are as many: the
Hub's files, the publisher's, and the rendered requests that OLMo keeps. How a document becomes a prompt is lm-eval's business alone.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidData
from finetune_trainer.data.files import file_rows
from finetune_trainer.data.raw_rows import Row, Unreadable

Document = dict[str, Any]
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".arrow", ".csv")
_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark's documents: `evaluation` are asked, `shots` are what examples are drawn from.

    `shots` is empty where no file holds any: examples are drawn from the other documents of `evaluation` then.
    """

    evaluation: list[Document]
    shots: list[Document]
    files: tuple[Path, ...]
    is_rendered: bool = False  # the documents hold prompts that are ready, and lm-eval's own preparation of them must not run


def arc_challenge(folder: Path) -> Benchmark:
    """ARC-Challenge: the test questions, and the training questions as shots. Raises InvalidData."""
    wanted = {"test": "arc_challenge_test*.jsonl.gz", "train": "arc_challenge_train*.jsonl.gz"}
    found = {
        split: _only(folder, f"arc-challenge.*(?<![a-z]){split}", f"*{name}, ARC-Challenge/{split}-*.parquet")
        for split, name in wanted.items()
    }
    test, train = (list(_documents(found[split], _arc_document)) for split in ("test", "train"))
    return Benchmark(evaluation=test, shots=train, files=tuple(found.values()))


def hellaswag(folder: Path) -> Benchmark:
    """HellaSwag: the validation documents; the training documents as shots where they are there. Raises InvalidData."""
    train = _matching(folder, "hellaswag.*(?<![a-z])train")
    names = "*hellaswag*.jsonl.gz, hellaswag/data/validation-*.parquet"
    found = _only(folder, "hellaswag(?!.*(?<![a-z])(train|test)(?![a-z]))", names)
    documents = list(_documents(found, _hellaswag_document))
    shots = [document for path in train for document in _documents(path, _hellaswag_document)]
    is_rendered = {"query" in document for document in (*documents, *shots)}
    if len(is_rendered) > 1:
        raise InvalidData(f"{found} and {train[0]}: one holds rendered requests and the other doesn't; give both in one form")
    return Benchmark(evaluation=documents, shots=shots, files=(found, *train), is_rendered=is_rendered == {True})


def truthfulqa(folder: Path) -> Benchmark:
    """TruthfulQA, multiple choice: the publisher's CSV, or the Hub's `multiple_choice`. There are no shots. Raises InvalidData."""
    found = _only(
        folder, r"truthful-?qa.*(?<!generation)\.(csv|json.*|parquet)", "TruthfulQA.csv, truthful_qa/multiple_choice/validation-*.parquet"
    )
    return Benchmark(evaluation=list(_documents(found, _truthfulqa_document)), shots=[], files=(found,))


def mmlu_subjects(folder: Path, subjects: Iterable[str]) -> list[str]:
    """Those of `subjects` whose test questions are in `folder`. Raises InvalidData when there are none."""
    there = [subject for subject in subjects if _matching(folder, _mmlu_pattern(subject, "test"))]
    if not there:
        raise _nothing(folder, "SUBJECT_test.arrow with SUBJECT_dev.arrow, SUBJECT/test-*.parquet")
    return there


def mmlu(folder: Path, subject: str) -> Benchmark:
    """One subject of MMLU: the test questions, and the five of `dev` as shots. Raises InvalidData."""
    found = {
        split: _only(folder, _mmlu_pattern(subject, split), f"{subject}_{split}.arrow, {subject}/{split}-*.parquet")
        for split in ("test", "dev")
    }
    test, dev = (list(_documents(found[split], _mmlu_document)) for split in ("test", "dev"))
    return Benchmark(evaluation=test, shots=dev, files=tuple(found.values()))


def _mmlu_pattern(subject: str, split: str) -> str:
    return rf"(?<![a-z-]){subject.replace('_', '-')}[-/]{split}(?![a-z])"


def files_below(folder: Path) -> list[Path]:
    """The folder's files, in order. Hidden ones are none: a volume of a ConfigMap has each file in a hidden folder, too."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Files below `folder` whose path, from the folder's own name on, has the pattern in lower case and with `-` for `_`."""
    files = [path for path in files_below(folder) if path.name.endswith(_SUFFIXES)]
    start = folder.resolve().name
    return [path for path in files if re.search(pattern, f"{start}/{path.relative_to(folder).as_posix()}".lower().replace("_", "-"))]


def _only(folder: Path, pattern: str, names: str) -> Path:
    found = _matching(folder, pattern)
    if not found:
        raise _nothing(folder, names)
    if len(found) > 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in found)
        raise InvalidData(f"{folder}: {len(found)} files are the same benchmark: {listed}; leave one in --task-data")
    return found[0]


def _nothing(folder: Path, names: str) -> InvalidData:
    return InvalidData(f"{folder}: no file named like {names}; put it there, or give its folder as --task-data")


def _documents(path: Path, document: Callable[[Mapping[str, Any]], Document]) -> Iterator[Document]:
    """Each document once, in the order of the file: rendered requests repeat theirs for every choice."""
    seen = set()
    for name, number, row in _rows(path):
        inner = row["doc"] if isinstance(row.get("doc"), dict) else row
        key = str(inner.get("id", inner.get("ind"))) if inner is not row else None
        if key in seen:
            continue
        if key is not None:
            seen.add(key)
        try:
            yield document(inner)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            what = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise InvalidData(f"{name} row {number}: not a document of this benchmark ({what}); copy the file again") from None


def _rows(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    row: Row
    for row in file_rows(path, str(path)):
        name, number, columns = row
        if isinstance(columns, Unreadable):
            raise InvalidData(f"{name} row {number}: {columns.reason}; copy the file again")
        yield name, number, columns


def _arc_document(row: Mapping[str, Any]) -> Document:
    """Columns of the Hub's allenai/ai2_arc."""
    if "query" in row:
        question = _between(row["query"], "Question: ", "\nAnswer:")
        texts, key = list(row["choices"]), _LETTERS[row["gold"]]
        labels = list(_LETTERS[: len(texts)])
    elif isinstance(row["question"], dict):  # the publisher's
        question, key = row["question"]["stem"], row["answerKey"]
        texts, labels = ([choice[name] for choice in row["question"]["choices"]] for name in ("text", "label"))
    else:
        question, key, texts, labels = row["question"], row["answerKey"], list(row["choices"]["text"]), list(row["choices"]["label"])
    if key not in labels:
        raise ValueError(f"the answer {key!r} is none of {labels}")
    return {"question": question, "choices": {"text": texts, "label": labels}, "answerKey": key}


def _between(text: str, start: str, end: str) -> str:
    """What lm-eval's prompt will have between these two again.

    >>> _between("Question: Why?\\nAnswer:", "Question: ", "\\nAnswer:")
    'Why?'
    """
    if not (text.startswith(start) and text.endswith(end)):
        raise ValueError(f"the query is not {start!r}...{end!r}")
    return text[len(start) : len(text) - len(end)]


def _hellaswag_document(row: Mapping[str, Any]) -> Document:
    """Columns of the Hub's Rowan/hellaswag, or query, choices and label where the request is rendered."""
    if "query" in row:
        return {"query": row["query"], "choices": _several(row["choices"]), "label": _position(row["gold"], row["choices"])}
    label = _position(int(row["label"]), row["endings"])
    return {name: row[name] for name in ("activity_label", "ctx_a", "ctx_b")} | {"endings": _several(row["endings"]), "label": str(label)}


def _mmlu_document(row: Mapping[str, Any]) -> Document:
    """Columns of the Hub's cais/mmlu."""
    return {"question": row["question"], "choices": _several(row["choices"]), "answer": _position(row["answer"], row["choices"])}


def _truthfulqa_document(row: Mapping[str, Any]) -> Document:
    """Columns of the Hub's truthfulqa/truthful_qa, configuration multiple_choice."""
    if "mc2_targets" in row:
        return {name: row[name] for name in ("question", "mc1_targets", "mc2_targets")}
    best = row.get("Best Answer") or row["Correct Answers"].split(";")[0]
    true, false = _references(row["Correct Answers"]), _references(row["Incorrect Answers"])
    return {
        "question": row["Question"].strip(),
        "mc1_targets": _targets([best.strip()], false),
        "mc2_targets": _targets(true, [answer for answer in false if answer not in true]),
    }


def _references(cell: str) -> list[str]:
    """The answers of a cell of TruthfulQA's CSV, each once.

    >>> _references("You get sick; Nothing happens;  You get sick")
    ['You get sick', 'Nothing happens']
    """
    return list(dict.fromkeys(answer for part in cell.split(";") if (answer := part.strip())))


def _targets(true: list[str], false: list[str]) -> Document:
    if not true or not false:
        raise ValueError("a question needs a true and a false answer")
    return {"choices": [*true, *false], "labels": [1] * len(true) + [0] * len(false)}


def _several(choices: Any) -> list[str]:
    if len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
        raise ValueError("a question needs two choices or more, all of them texts")
    return list(choices)


def _position(answer: Any, choices: Any) -> int:
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise ValueError(f"the answer {answer!r} is no position among {len(choices)} choices")
    return answer
