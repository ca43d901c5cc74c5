"""The preparation pod of a job with an evaluation: what would be refused after training is refused before anything is read."""

from pathlib import Path
from typing import Any

from tests.exported_models import base_folder, training_run

from finetune_api.pod_checks import job_json
from finetune_api.pod_result import PodResult, parse_pod_result
from finetune_assistant.pods.prepare import checked_and_prepared
from finetune_trainer.pods.pod import Pod, run_stage


def prepared(folder: Path, **evaluation: Any) -> PodResult:
    """What the pod says of a job whose base model lacks its weights."""
    run = training_run(base_folder(folder / "base", "llama"), evaluation=evaluation, checkpoints={"storage": str(folder / "storage")})
    (folder / "job.json").write_text(job_json(run.job))
    pod = Pod(scratch=folder / "disk", job_file=folder / "job.json", termination_log=folder / "termination-log")
    assert run_stage(checked_and_prepared, pod) == 2
    result = parse_pod_result((folder / "termination-log").read_text())
    assert result is not None
    return result


def test_an_unknown_task_ends_it_before_anything_is_looked_at(tmp_path: Path) -> None:
    result = prepared(tmp_path, tasks=["hellaswagg"])
    assert (result.reason, result.permanent) == ("UnknownTask", True)
    assert str(result.message).startswith("spec.evaluation.tasks hellaswagg: there is no task of this name; near it: hellaswag")
    assert not (tmp_path / "storage").exists()


def test_known_tasks_are_followed_by_the_trainers_preparation(tmp_path: Path) -> None:
    assert "has no weights" in str(prepared(tmp_path, tasks=["hellaswag"]).message)
