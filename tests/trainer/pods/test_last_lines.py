"""finetune_trainer/pods/last_lines.py"""

from pathlib import Path

import pytest

from finetune_api.errors import TrainingFailed
from finetune_api.keys import SECRETS_FOLDER_ENV
from finetune_api.pod_result import PodResult, parse_pod_result
from finetune_api.status import LONGEST_LINE, MOST_LINES
from finetune_trainer.pods.last_lines import last_lines
from finetune_trainer.secrets import Secrets


class RayTrainingFailed(Exception):
    """As Ray Train raises it: errors by rank, each the text of a traceback from another process."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("the worker group failed")
        self.worker_failures = failures


def raised(cause: Exception) -> TrainingFailed:
    try:
        raise TrainingFailed("worker 3 failed") from cause
    except TrainingFailed as error:
        return error


def test_the_first_ranks_traceback_explains_more_than_the_drivers() -> None:
    text = "\n".join(["Traceback (most recent call last):", *(f"  frame {n}" for n in range(20)), "RuntimeError: cuBLAS said no", ""])
    found = last_lines(raised(RayTrainingFailed({5: RuntimeError("rank 5 waited"), 3: RuntimeError(text)})))
    assert len(found) == MOST_LINES
    assert found[-2:] == ["  frame 19", "RuntimeError: cuBLAS said no"]


def test_secrets_are_masked_and_lines_cut(tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3" / "AWS_SECRET_ACCESS_KEY").write_text("wJalrXUtnFEMI\n")
    found = last_lines(raised(ValueError(f"key wJalrXUtnFEMI {'x' * 500}")), Secrets({SECRETS_FOLDER_ENV: str(tmp_path)}))
    assert found[-1].startswith("ValueError: key *** x")
    assert len(found[-1]) <= LONGEST_LINE


@pytest.mark.parametrize(("message", "kept"), [("short", True), ("ü" * 1000, False)])
def test_a_termination_message_keeps_them_where_the_message_leaves_room(message: str, kept: bool) -> None:
    result = PodResult(outcome="Failed", reason="TrainingFailed", message=message, last_lines=["ä" * LONGEST_LINE] * MOST_LINES)
    result = result if not kept else result.model_copy(update={"last_lines": ["a line"]})
    told = parse_pod_result(result.to_termination_message())
    assert told is not None
    assert (told.message, told.last_lines is not None) == (message, kept)
