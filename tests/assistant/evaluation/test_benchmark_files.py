"""Files of benchmarks, in the forms that they are published in, as the columns of lm-eval's own tasks."""

import json
from pathlib import Path

import pytest
from tests.assistant.evaluation.small_benchmarks import USES, arc_rows, hellaswag_rows, write_benchmarks

from finetune_api.errors import InvalidData
from finetune_assistant.evaluation.benchmark_files import arc_challenge, hellaswag, mmlu, mmlu_subjects, truthfulqa


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks") / "data")


def test_rendered_requests_give_each_document_once_in_its_order(folder: Path) -> None:
    found = arc_challenge(folder)
    assert (len(found.evaluation), len(found.shots)) == (7, 30)
    assert found.evaluation[1] == {
        "question": "What is a comb number 1 for?",
        "choices": {"text": list(USES[1:5]), "label": ["A", "B", "C", "D"]},
        "answerKey": "B",
    }


def test_arc_is_also_read_as_the_hub_and_its_publisher_have_it(tmp_path: Path) -> None:
    choices = [{"text": "red", "label": "1"}, {"text": "blue", "label": "2"}]
    (tmp_path / "ARC-Challenge-Test.jsonl").write_text(
        json.dumps({"id": "a", "question": {"stem": "Sky?", "choices": choices}, "answerKey": "2"}) + "\n"
    )
    hub = {"id": "b", "question": "Blood?", "choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "A"}
    (tmp_path / "ARC-Challenge-Train.jsonl").write_text(json.dumps(hub) + "\n")
    found = arc_challenge(tmp_path)
    assert found.evaluation == [{"question": "Sky?", "choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"}]
    assert found.shots == [{"question": "Blood?", "choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "A"}]


def test_hellaswag_keeps_the_hubs_columns_and_knows_rendered_requests(folder: Path, tmp_path: Path) -> None:
    found = hellaswag(folder)
    assert not found.is_rendered
    assert found.evaluation[2] == {name: value for name, value in hellaswag_rows(3)[2].items() if name != "ind"}
    document = {"ind": 4, "query": "Tea: She", "choices": ["pours.", "sings."], "gold": 1}
    (tmp_path / "hellaswag_rc.jsonl").write_text(f"{json.dumps({'doc': document})}\n" * 2)
    rendered = hellaswag(tmp_path)
    assert rendered.is_rendered
    assert rendered.evaluation == [{"query": "Tea: She", "choices": ["pours.", "sings."], "label": 1}]
    assert rendered.shots == []


def test_subjects_that_are_there_are_found_by_their_whole_names(folder: Path) -> None:
    known = ["anatomy", "astronomy", "computer_science", "high_school_computer_science"]
    assert mmlu_subjects(folder, known) == ["anatomy", "high_school_computer_science"]
    found = mmlu(folder, "high_school_computer_science")
    assert (len(found.evaluation), len(found.shots)) == (6, 5)
    assert found.evaluation[1]["answer"] == 1


def test_truthfulqa_has_true_answers_first_and_each_answer_once(folder: Path) -> None:
    document = truthfulqa(folder).evaluation[0]
    assert document["question"] == "Does a watched kettle boil?"
    assert document["mc1_targets"] == {"choices": ["Yes, as fast as any", "No", "It never boils", "It waits"], "labels": [1, 0, 0, 0]}
    assert document["mc2_targets"]["choices"] == ["Yes, as fast as any", "It boils", "No", "It never boils", "It waits"]
    assert document["mc2_targets"]["labels"] == [1, 1, 0, 0, 0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read, name in ((arc_challenge, "arc_challenge_test"), (hellaswag, "hellaswag"), (truthfulqa, "TruthfulQA.csv")):
        with pytest.raises(InvalidData, match=rf"{tmp_path}: no file named like .*{name}.*--task-data"):
            read(tmp_path)
    with pytest.raises(InvalidData, match="SUBJECT_test"):
        mmlu_subjects(tmp_path, ["anatomy"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gold": 4}, "'E' is none of"),
        ({"query": "Why?"}, "the query is not 'Question: '"),
        ({"choices": None}, "NoneType"),
    ],
)
def test_a_damaged_document_is_named_with_its_row(folder: Path, tmp_path: Path, change: dict[str, object], told: str) -> None:
    rows = [{**row, "doc": {**row["doc"], **change}} for row in arc_rows(1)]
    for split in ("test", "train"):
        (tmp_path / f"arc_challenge_{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(InvalidData, match=rf"arc_challenge_test.jsonl row 1: not a document of this benchmark.*{told}"):
        arc_challenge(tmp_path)


def test_two_files_of_one_benchmark_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("TruthfulQA.csv", "truthfulqa-copy.csv"):
        (tmp_path / name).write_text((folder / "TruthfulQA.csv").read_text())
    with pytest.raises(InvalidData, match="2 files are the same benchmark: TruthfulQA"):
        truthfulqa(tmp_path)


def test_the_volume_of_a_config_map_has_each_file_once(folder: Path, tmp_path: Path) -> None:
    version = tmp_path / "..2026_11_30_10_00_00.1"
    version.mkdir()
    (version / "TruthfulQA.csv").write_text((folder / "TruthfulQA.csv").read_text())
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "TruthfulQA.csv").symlink_to("..data/TruthfulQA.csv")
    assert truthfulqa(tmp_path).files == (tmp_path / "TruthfulQA.csv",)


@pytest.mark.real_data
def test_the_published_files_are_read_whole(test_data: Path) -> None:
    arc, scenes, truth = arc_challenge(test_data), hellaswag(test_data), truthfulqa(test_data)
    assert (len(arc.evaluation), len(arc.shots)) == (1172, 1119)
    assert all(document["answerKey"] in document["choices"]["label"] for document in arc.evaluation)
    assert (len(scenes.evaluation), scenes.is_rendered) == (1000, True)
    assert len(truth.evaluation) == 817
    assert len(mmlu(test_data, "anatomy").evaluation) == 135
