"""The numbers of lm-eval's own command, told apart by model and document; and what is said where a window is too short."""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.assistant.evaluation.small_benchmarks import base_model, tuned_run, write_benchmarks

from finetune_api.errors import InvalidData, InvalidModel
from finetune_assistant.evaluation.harness import HarnessSettings, language_model, loaded_tasks, measured_tasks, tell_what_is_cut
from finetune_assistant.evaluation.model_files import model_files
from finetune_assistant.evaluation.results import Measurement
from finetune_assistant.evaluation.tasks import STANDARDS, ChosenTasks, chosen_tasks

Numbers = dict[tuple[str, str], tuple[float, float | None, int]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, a run over it, benchmarks, and the definitions of tasks that were made of them."""
    place = tmp_path_factory.mktemp("evaluation")
    tuned_run(place / "run", base_model(place / "base"))
    write_benchmarks(place / "data")
    return place


@pytest.fixture(scope="module")
def tasks(place: Path) -> ChosenTasks:
    return chosen_tasks(list(STANDARDS), place / "data", place / "tasks")


@pytest.fixture(scope="module")
def measured(place: Path, tasks: ChosenTasks) -> dict[str, list[Measurement]]:
    """Both models, one after the other, on tasks that were loaded once."""
    [loaded], settings = loaded_tasks(tasks, None), HarnessSettings(device="cpu")
    found = {}
    for name in ("base", "run"):
        files = model_files(str(place / name))
        model = language_model(files, settings, lambda _done, _total: None, pytest.fail)
        found[name] = measured_tasks(files, model, loaded, settings)
    return found


@pytest.mark.parametrize(("name", "folder", "template"), [("base", "base", False), ("run", "run/model", True)])
def test_numbers_are_those_of_lm_evals_own_command(
    place: Path, measured: dict[str, list[Measurement]], quiet: None, name: str, folder: str, template: bool
) -> None:
    """What `lm_eval run --include_path tasks --tasks ...` calls, with what it takes where nothing is said."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    theirs = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(place / folder)},
        tasks=list(STANDARDS),
        task_manager=TaskManager(include_path=str(place / "tasks"), include_defaults=False),
        batch_size=8,
        device="cpu",
        apply_chat_template=template,
        fewshot_as_multiturn=template,
        log_samples=False,
    )
    ours: Numbers = {(one.task, f"{one.metric},none"): (one.value, one.standard_error, one.shots) for one in measured[name]}
    assert ours == _numbers(theirs)
    assert all(one.chat_template is template for one in measured[name])


@pytest.fixture
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """lm-eval logs through a handler of its own, which would outlive this test's streams."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def _numbers(found: Mapping[str, Any]) -> Numbers:
    return {
        (task, key): (value, values[key.replace(",", "_stderr,")], found["n-shot"][task])
        for task, values in found["results"].items()
        for key, value in values.items()
        if "," in key and "_stderr" not in key
    }


def test_beside_a_number_stand_its_shots_and_documents(measured: dict[str, list[Measurement]]) -> None:
    shown = {one.task: one for one in measured["base"] if one.group is None and one.metric == STANDARDS[one.task].metric}
    assert {task: (one.shots, one.documents, one.documents_there) for task, one in shown.items()} == {
        "arc_challenge": (25, 7, 7),
        "hellaswag": (10, 5, 5),
        "mmlu": (5, 12, 12),
        "truthfulqa_mc2": (0, 3, 3),
    }
    assert list(shown) == list(STANDARDS)
    assert all(one.is_mean for one in shown.values())
    members = [one.task for one in measured["base"] if one.group == "mmlu"]
    assert members == ["mmlu_anatomy", "mmlu_high_school_computer_science"]


def test_documents_of_two_models_pair(measured: dict[str, list[Measurement]]) -> None:
    for one, other in zip(measured["base"], measured["run"], strict=True):
        assert one.by_document.keys() == other.by_document.keys()
    mmlu = next(one for one in measured["base"] if one.task == "mmlu")
    assert len(mmlu.by_document) == 12


def test_shots_and_limit_are_the_users_and_progress_is_told(place: Path, tasks: ChosenTasks) -> None:
    settings = HarnessSettings(device="cpu", num_fewshot=1, limit=2, chat_template=False, dtype="bfloat16")
    files, told = model_files(str(place / "run")), list[tuple[int, int]]()
    model = language_model(files, settings, lambda done, total: told.append((done, total)), pytest.fail)
    found = {one.task: one for one in measured_tasks(files, model, loaded_tasks(tasks, 1)[0], settings)}
    assert {
        task: (found[task].shots, found[task].documents, found[task].limit) for task in ("arc_challenge", "truthfulqa_mc2", "mmlu")
    } == {
        "arc_challenge": (1, 2, 2),
        "truthfulqa_mc2": (0, 2, 2),  # defined without shots
        "mmlu": (1, 4, 2),
    }
    assert not found["mmlu"].chat_template
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] == len(told) - 1


def test_a_chat_template_that_is_not_there_is_refused(place: Path, tasks: ChosenTasks) -> None:
    settings = HarnessSettings(device="cpu", chat_template=True)
    files = model_files(str(place / "base"))
    model = language_model(files, settings, lambda _done, _total: None, pytest.fail)
    with pytest.raises(InvalidModel, match="has no chat template; leave --chat-template out"):
        measured_tasks(files, model, loaded_tasks(tasks, None)[0], settings)


def test_a_window_that_is_too_short_is_told_before_anything_is_asked() -> None:
    notes: list[str] = []
    requests = [SimpleNamespace(task_name="arc_challenge"), SimpleNamespace(task_name="mmlu"), SimpleNamespace(task_name="arc_challenge")]
    encoded = [("", [1] * 20, [1] * 2), ("", [1] * 14, [1] * 3), ("", [1] * 15, [1] * 2)]
    tell_what_is_cut("base", requests, encoded, 16, notes.append)
    assert len(notes) == 1
    assert "its window of 16 tokens is too short for prompts of up to 21, which lost their beginning: arc_challenge (1)" in notes[0]
    with pytest.raises(InvalidModel, match="an answer of mmlu has 17 tokens, the window 16"):
        tell_what_is_cut("base", requests[1:2], [("", [1], [1] * 17)], 16, notes.append)


def test_a_short_window_is_told_with_the_number(place: Path, tasks: ChosenTasks, tmp_path: Path) -> None:
    files, notes = model_files(str(base_model(tmp_path / "short", window=128))), list[str]()
    settings = HarnessSettings(device="cpu", limit=1)
    model = language_model(files, settings, lambda _done, _total: None, notes.append)
    measured_tasks(files, model, loaded_tasks(tasks, None)[0], settings)
    assert len(notes) == 1
    assert "its window of 128 tokens is too short" in notes[0]
    assert "arc_challenge (4)" in notes[0]


def test_data_that_lm_eval_can_not_load_is_told(place: Path, tmp_path: Path) -> None:
    chosen = chosen_tasks(["truthfulqa_mc2"], place / "data", tmp_path)
    os.remove(tmp_path / "truthfulqa_mc2/validation.jsonl")
    with pytest.raises(InvalidData, match=r"--tasks truthfulqa_mc2: lm-eval can't load it \(.*validation\.jsonl"):
        loaded_tasks(chosen, None)
