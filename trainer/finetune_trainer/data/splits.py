"""Which files of a folder (or keys under a prefix) belong to which split.

In: relative paths. Out: the paths of one split, the split that was meant, and the files that are left out. Names decide, as on the Hub,
by whole words: `train.jsonl`, `train-00000-of-00002.parquet`, `train/part.json`, `train_ift-0.arrow`, `chat-test.json`;
`evaluate_me.jsonl` and `latest.jsonl` name none. Where no file is named after `train`, those that name no split at all are it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".arrow", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
FALLBACK = {"train": "train_ift", "test": "test_ift"}
ALONE = "train"  # the split of everything that names none
# What `datasets` writes beside the rows.
NO_ROWS = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json", "metadata.csv"))
# The words that name a split, by the Hub's convention; between words stand its separators.
WORDS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "dev": "validation", "val": "validation"}
WORDS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
SPLIT_WORD = re.compile(rf"(?:^|[-._ 0-9])({'|'.join(WORDS)})(?=$|[-._ 0-9])")
SHARD_NUMBER = re.compile(r"([-_.]?\d+([-_.]of[-_.]\d+)?)+$")


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """The files of `split`, sorted; a fallback makes it another than the one asked for.

    `left_out`: other files, save those that are another split by their whole name: somebody may have meant them, too.
    """

    split: str
    paths: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def is_data_file(path: str) -> bool:
    """Whether a file of this name holds rows."""
    parts = PurePosixPath(path).parts
    return path.endswith(SUFFIXES) and parts[-1] not in NO_ROWS and not any(part.startswith((".", "_")) for part in parts)


def files_of_split(paths: Iterable[str], split: str) -> SplitFiles | list[str]:
    """The files of `split`, or of its fallback; without any, the sorted names of the splits that there are."""
    by_split: dict[str, list[str]] = {}
    for path in sorted(paths):
        by_split.setdefault(_split(path, split), []).append(path)
    unnamed = by_split.pop("", [])

    def chosen(name: str, files: list[str]) -> SplitFiles:
        others = [path for other, paths in by_split.items() if other not in WORDS for path in paths]
        return SplitFiles(name, tuple(sorted(files)), tuple(sorted(set(others + unnamed) - set(files))))

    for name in (split, FALLBACK.get(split)):
        if name in by_split:
            return chosen(name, by_split[name])
    # train_en.jsonl and train_de.jsonl, asked for train.
    longer = [path for name, files in by_split.items() if re.match(re.escape(split) + r"[-_.]", name) for path in files]
    if longer:
        return chosen(split, longer)
    # my-train.jsonl, asked for train; dev.jsonl, asked for validation.
    meant = [name for name in by_split if split in WORDS.values() and _meant(name) == split]
    if meant:
        return chosen(meant[0] if len(meant) == 1 and meant[0] in WORDS else split, [path for name in meant for path in by_split[name]])
    if split == ALONE and unnamed:
        return chosen(split, unnamed)
    return sorted(by_split.keys() | ({ALONE} if unnamed else set()))


def _meant(name: str) -> str | None:
    """The split of the Hub that a name stands for."""
    word = SPLIT_WORD.search(name)
    return WORDS[word.group(1)] if word else None


def _split(path: str, wanted: str) -> str:
    """The split that a path names, or "": its file name first, then its folders from the inside out.

    >>> _split("data/train-00000-of-00002.parquet", "train"), _split("test/part.jsonl", "train"), _split("a.json", "train")
    ('train', 'test', '')
    """
    parts = PurePosixPath(path).parts
    stem = parts[-1].split(".", 1)[0] if not parts[-1].startswith(".") else parts[-1]
    names = [SHARD_NUMBER.sub("", stem), *reversed(parts[:-1])]
    return next((name for name in names if name == wanted or SPLIT_WORD.search(name)), "")


def no_split(name: str, split: str, known: list[str]) -> str:
    """The message for a split that is neither there nor has a fallback."""
    tried = f"{split!r} or {FALLBACK[split]!r}" if split in FALLBACK else repr(split)
    return f"{name}: no split {tried}; it has {', '.join(map(repr, known))}"


def fallback(name: str, split: str, found: str) -> str:
    """The notice that another split is read than the one asked for."""
    return f"{name}: there is no split {split!r}; {found!r} is read"
