"""Which files belong to a split, by their names."""

import pytest

from finetune_trainer.data.splits import SplitFiles, files_of_split, is_data_file, no_split


@pytest.mark.parametrize(
    ("paths", "split", "expected"),
    [
        (["b.jsonl", "a.jsonl"], "train", ["a.jsonl", "b.jsonl"]),
        (["train.jsonl", "test.jsonl"], "train", ["train.jsonl"]),
        (["train.jsonl", "test.jsonl"], "test", ["test.jsonl"]),
        (
            ["train-00001-of-00002.parquet", "train-00000-of-00002.parquet"],
            "train",
            ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ),
        (["data/train-0.parquet", "data/test-0.parquet"], "train", ["data/train-0.parquet"]),
        (["train/x.json", "test/x.json"], "test", ["test/x.json"]),
        (["train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow"], "train", ["train/data-00000-of-00001.arrow"]),
        (["train_1.jsonl", "train2.jsonl", "train.3.jsonl"], "train", ["train.3.jsonl", "train2.jsonl", "train_1.jsonl"]),
        (["train_en.jsonl", "train_de.jsonl", "test.jsonl"], "train", ["train_de.jsonl", "train_en.jsonl"]),
        (["train.jsonl", "train_ift.jsonl"], "train", ["train.jsonl"]),
        (["trainer.jsonl", "test.jsonl"], "train", ["trainer.jsonl"]),
        (["validation.jsonl", "train.jsonl"], "validation", ["validation.jsonl"]),
        (["mine.jsonl", "train.jsonl"], "mine", ["mine.jsonl"]),
        (["train.jsonl.gz"], "train", ["train.jsonl.gz"]),
        (["train/test_cases.jsonl"], "test", ["train/test_cases.jsonl"]),
        (["my_train.jsonl", "chat-test.jsonl"], "train", ["my_train.jsonl"]),
        (["latest.jsonl", "contest.jsonl", "evaluate_me.jsonl"], "train", ["contest.jsonl", "evaluate_me.jsonl", "latest.jsonl"]),
        (["devtools.jsonl", "trainset.csv"], "train", ["devtools.jsonl", "trainset.csv"]),
    ],
)
def test_files_of_a_split(paths: list[str], split: str, expected: list[str]) -> None:
    found = files_of_split(paths, split)
    assert isinstance(found, SplitFiles)
    assert (found.split, found.paths) == (split, tuple(expected))


@pytest.mark.parametrize("name", ["val.jsonl", "dev.jsonl", "valid-00000-of-00001.parquet"])
def test_other_words_for_a_split(name: str) -> None:
    """What is read then is told, as another name than the one that was asked for."""
    assert files_of_split(["train.jsonl", name], "validation") == SplitFiles(name.split(".")[0].split("-")[0], (name,))


def test_a_file_that_names_another_split_is_not_trained_on() -> None:
    assert files_of_split(["chat-test.jsonl", "a.jsonl"], "train") == SplitFiles("train", ("a.jsonl",), left_out=("chat-test.jsonl",))


def test_folder_with_dev_notes_and_evaluate_me_split_train() -> None:
    """Kind 8: what is left out is told by name."""
    found = files_of_split(["dev_notes.jsonl", "evaluate_me.jsonl"], "train")
    assert found == SplitFiles("train", ("evaluate_me.jsonl",), left_out=("dev_notes.jsonl",))


def test_files_that_name_no_split_are_train_only_where_nothing_else_is() -> None:
    assert files_of_split(["train.jsonl", "training_notes.jsonl"], "train") == SplitFiles(
        "train", ("train.jsonl",), left_out=("training_notes.jsonl",)
    )
    assert files_of_split(["a.jsonl", "test.jsonl"], "train") == SplitFiles("train", ("a.jsonl",))
    assert files_of_split(["a.jsonl"], "test") == ["train"]


@pytest.mark.parametrize(("split", "found"), [("train", "train_ift"), ("test", "test_ift")])
def test_the_fallback(split: str, found: str) -> None:
    assert files_of_split(["train_ift-0.parquet", "test_ift-0.parquet", "train_rl-0.parquet"], split) == SplitFiles(
        found,
        (f"{found}-0.parquet",),
        left_out=tuple(sorted({"train_ift-0.parquet", "test_ift-0.parquet", "train_rl-0.parquet"} - {f"{found}-0.parquet"})),
    )


def test_a_split_that_is_not_there_gives_those_that_are() -> None:
    assert files_of_split(["train.jsonl", "validation.jsonl"], "test") == ["train", "validation"]
    assert files_of_split(["a.jsonl"], "test") == ["train"]
    assert no_split("./d", "test", ["train", "validation"]) == "./d: no split 'test' or 'test_ift'; it has 'train', 'validation'"
    assert no_split("./d", "dev", ["train"]) == "./d: no split 'dev'; it has 'train'"


@pytest.mark.parametrize("path", ["a.jsonl", "a.json", "x/a.parquet", "a.arrow", "a.jsonl.gz", "a.json.gz"])
def test_files_with_rows(path: str) -> None:
    assert is_data_file(path)


@pytest.mark.parametrize(
    "path", ["README.md", "a.txt", "a.gz", ".hidden.jsonl", ".git/a.json", "_temporary/a.parquet", "train/state.json", "dataset_info.json"]
)
def test_files_without_rows(path: str) -> None:
    assert not is_data_file(path)
