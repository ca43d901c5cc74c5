"""Names of tasks: ours, lm-eval's own, and those that are neither; and what is written for lm-eval."""

from pathlib import Path

import pytest
import yaml
from tests.assistant.evaluation.small_benchmarks import write_benchmarks

from finetune_api.errors import InvalidData, UnknownTask
from finetune_assistant.evaluation.tasks import STANDARDS, chosen_tasks, own_names, refuse_unknown


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("tasks") / "data")


def test_lm_evals_names_are_known_without_its_index() -> None:
    """A task, a group, a tag, and a tag that a template without a suffix gives."""
    assert own_names() >= {"arc_easy", "mmlu", "mmlu_stem_tasks", "afrimmlu_tasks", "gsm8k", *STANDARDS}
    assert len(own_names()) > 10_000


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UnknownTask, match=r"--tasks arc_chalenge: there is no task of this name; near it: arc_challenge, .*--tasks list"):
        refuse_unknown(["hellaswag", "arc_chalenge"])
    with pytest.raises(UnknownTask, match="of this name; `finetune evaluate --tasks list` lists them"):
        refuse_unknown(["\u00e9\u00e9\u00e9"])


def test_definitions_include_lm_evals_own_and_change_what_is_ours(data: Path, tmp_path: Path) -> None:
    chosen = chosen_tasks(["arc_challenge", "mmlu"], data, tmp_path)
    assert not chosen.needs_own
    assert chosen.notes == ("mmlu: 2 of 57 subjects are there: anatomy, high_school_computer_science",)
    definition = yaml.safe_load((tmp_path / "arc_challenge.yaml").read_text())
    assert definition["include"].endswith("lm_eval/tasks/arc/arc_challenge.yaml")
    assert (definition["num_fewshot"], definition["dataset_path"]) == (25, "json")
    assert Path(definition["dataset_kwargs"]["data_files"]["test"]).is_file()
    assert yaml.safe_load((tmp_path / "mmlu.yaml").read_text())["task"] == ["mmlu_anatomy", "mmlu_high_school_computer_science"]
    assert [path.parent.name for path in chosen.evaluation_files] == ["arc_challenge", "mmlu_anatomy", "mmlu_high_school_computer_science"]


def test_a_subject_may_be_asked_alone_and_beside_lm_evals_own(data: Path, tmp_path: Path) -> None:
    chosen = chosen_tasks(["mmlu_anatomy", "arc_easy"], data, tmp_path)
    assert chosen.needs_own
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == ["mmlu_anatomy.yaml"]


def test_without_files_the_hubs_documents_get_the_same_shots(tmp_path: Path) -> None:
    chosen = chosen_tasks(["arc_challenge", "mmlu", "arc_easy"], None, tmp_path)
    assert (chosen.folder, chosen.needs_own) == (None, True)
    assert [chosen.shots(name) for name in ("arc_challenge", "mmlu_anatomy", "arc_easy")] == [25, 5, None]


def test_shots_from_the_questions_themselves_are_told(data: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    source = data / "hellaswag/data/validation-00000-of-00001.parquet"
    (alone / "hellaswag-validation.parquet").write_bytes(source.read_bytes())
    chosen = chosen_tasks(["hellaswag"], alone, tmp_path / "tasks")
    assert chosen.notes == ("hellaswag: no training documents are there, so shots are drawn from its other questions",)
    assert yaml.safe_load((tmp_path / "tasks/hellaswag.yaml").read_text())["training_split"] is None


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"--task-data .*nowhere: there is no such folder"):
        chosen_tasks(["arc_challenge"], tmp_path / "nowhere", tmp_path)
