"""Which files of a folder (or keys under a prefix) belong to which split.

In: relative paths. Out: the paths of one split, and the split that was meant. Names decide, as on the Hub: `train.jsonl`,
`train-00000-of-00002.parquet`, `train/part.json`, `train_ift-0.arrow`. Where no file is named after `train`, those that name no
split at all are it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".arrow", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
FALLBACK = {"train": "train_ift", "test": "test_ift"}
ALONE = "train"  # the split of everything that names none
# What `datasets` writes beside the rows.
NO_ROWS = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"))
SPLIT_NAME = re.compile(r"(train|test|validation|valid|dev|eval)(?![a-z])", re.IGNORECASE)
SHARD_NUMBER = re.compile(r"([-_.]?\d+([-_.]of[-_.]\d+)?)+$")


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """The files of `split`, sorted; a fallback makes it another than the one asked for. `nameless` files belong to no split."""

    split: str
    paths: tuple[str, ...]
    nameless: tuple[str, ...] = ()


def is_data_file(path: str) -> bool:
    """Whether a file of this name holds rows."""
    parts = PurePosixPath(path).parts
    return path.endswith(SUFFIXES) and parts[-1] not in NO_ROWS and not any(part.startswith((".", "_")) for part in parts)


def files_of_split(paths: Iterable[str], split: str) -> SplitFiles | list[str]:
    """The files of `split`, or of its fallback; without any, the sorted names of the splits that there are."""
    by_split: dict[str, list[str]] = {}
    for path in sorted(paths):
        by_split.setdefault(_split(path, split), []).append(path)
    nameless = tuple(by_split.pop("", ()))
    for name in (split, FALLBACK.get(split)):
        if name in by_split:
            return SplitFiles(name, tuple(by_split[name]), nameless)
    # train_en.jsonl and train_de.jsonl, asked for train.
    longer = [path for name, files in by_split.items() if re.match(re.escape(split) + r"[-_.]", name) for path in files]
    if longer:
        return SplitFiles(split, tuple(sorted(longer)), nameless)
    if split == ALONE and nameless:
        return SplitFiles(split, nameless)
    return sorted(by_split.keys() | ({ALONE} if nameless else set()))


def _split(path: str, wanted: str) -> str:
    """The split that a path names, or "": its file name first, then its folders from the inside out.

    >>> _split("data/train-00000-of-00002.parquet", "train"), _split("test/part.jsonl", "train"), _split("a.json", "train")
    ('train', 'test', '')
    """
    parts = PurePosixPath(path).parts
    stem = parts[-1].split(".", 1)[0] if not parts[-1].startswith(".") else parts[-1]
    names = [SHARD_NUMBER.sub("", stem), *reversed(parts[:-1])]
    return next((name for name in names if name == wanted or SPLIT_NAME.match(name)), "")


def no_split(name: str, split: str, known: list[str]) -> str:
    """The message for a split that is neither there nor has a fallback."""
    tried = f"{split!r} or {FALLBACK[split]!r}" if split in FALLBACK else repr(split)
    return f"{name}: no split {tried}; it has {', '.join(map(repr, known))}"


def fallback(name: str, split: str, found: str) -> str:
    """The notice that another split is read than the one asked for."""
    return f"{name}: there is no split {split!r}; {found!r} is read"
