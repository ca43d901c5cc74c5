"""An evaluation that goes on: tasks one by one, each kept, none asked twice, and the numbers of one that was never ended."""

from pathlib import Path
from typing import Any

import pytest
from tests.assistant.evaluation.small_benchmarks import base_model, tuned_run, write_benchmarks

from finetune_assistant.evaluation import pipeline
from finetune_assistant.evaluation.harness import HarnessSettings
from finetune_assistant.evaluation.kept_parts import KeptParts, Part
from finetune_assistant.evaluation.pipeline import Wanted, evaluation
from finetune_assistant.evaluation.results import Evaluation, Measurement

SETTINGS = HarnessSettings(device="cpu", limit=3, num_fewshot=1)
ONE = Measurement(
    task="t", metric="acc", value=0.5, standard_error=None, shots=1, limit=3, documents=3, documents_there=9, chat_template=False,
    by_document={"t 0 a": 1.0},
)  # fmt: skip
PART = Part(revision=None, dtype="float32", device="cpu", window=64, seconds=1.5, results=(ONE,))


def test_a_part_is_found_by_model_tasks_and_settings_alone(tmp_path: Path) -> None:
    saved: list[str] = []
    kept = KeptParts(tmp_path / "parts", {"limit": 3}, lambda: saved.append("."))
    kept.keep("model", ["t"], PART)
    assert saved == ["."]
    assert KeptParts(tmp_path / "parts", {"limit": 3}).find("model", ["t"]) == PART
    assert kept.find("other", ["t"]) is kept.find("model", ["t", "u"]) is None
    assert KeptParts(tmp_path / "parts", {"limit": 4}).find("model", ["t"]) is None
    [file] = (tmp_path / "parts").iterdir()
    file.write_text(file.read_text()[:40])
    assert kept.find("model", ["t"]) is None, "cut off"


def test_an_evaluation_goes_on_after_the_tasks_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_model(tmp_path / "base")
    run = tuned_run(tmp_path / "run", base)
    wanted = Wanted(
        models=(str(base), str(run)),
        called=("org/base", "mine"),
        tasks=("truthfulqa_mc2", "arc_challenge"),
        task_data=write_benchmarks(tmp_path / "data"),
        perplexity=(),
        task_folder=tmp_path / "tasks",
    )
    settings: dict[str, Any] = {"limit": 3}
    asked: list[str] = []

    def measured(kept: KeptParts | None) -> Evaluation:
        def progress(what: str) -> Any:
            asked.append(what)
            return lambda _done, _total: None

        return evaluation(wanted, SETTINGS, progress, lambda _note: None, kept=kept)

    class Killed(Exception):
        """By whoever ends pods."""

    def killed_after_three() -> None:
        if len(list((tmp_path / "parts").iterdir())) == 3:
            raise Killed

    with pytest.raises(Killed):
        measured(KeptParts(tmp_path / "parts", settings, killed_after_three))
    asked.clear()
    found = measured(KeptParts(tmp_path / "parts", settings))
    assert asked == ["org/base", "mine", "mine, arc_challenge"]
    together = measured(None)
    assert [model.model for model in found.models] == ["org/base", "mine"]
    for model, other in zip(found.models, together.models, strict=True):
        assert [(one.task, one.metric) for one in model.results] == [(one.task, one.metric) for one in other.results]
        assert [one.value for one in model.results] == pytest.approx([one.value for one in other.results])
        assert (model.digest, model.dtype, model.device, model.window) == (other.digest, other.dtype, other.device, other.window)
    assert [(each.task, each.documents) for each in found.differences] == [(each.task, each.documents) for each in together.differences]
    monkeypatch.setattr(pipeline, "language_model", None)  # no model is loaded for what is kept
    assert [model.results for model in measured(KeptParts(tmp_path / "parts", settings)).models] == [
        model.results for model in found.models
    ]
