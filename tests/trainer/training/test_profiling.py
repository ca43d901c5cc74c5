"""finetune_trainer/training/profiling.py"""

import json
from pathlib import Path

import pytest
import torch

from finetune_api.errors import InvalidSpec
from finetune_trainer.training.profiling import Profile, StepProfiler, profile_of, steps_of


def test_the_steps_that_are_asked_for_are_written_and_no_others(tmp_path: Path) -> None:
    profile = Profile(first=2, last=3, folder=str(tmp_path / "profile"))
    profiler = StepProfiler(profile, rank=1)
    for number in range(1, 5):
        with profiler.step(number):
            torch.ones(4, 4) @ torch.ones(4, 4)
        assert profile.file(1).exists() == (number >= 3)
    assert profile.file(1).name == "steps-2-3-rank-1.json"
    names = {event.get("name") for event in json.loads(profile.file(1).read_text())["traceEvents"]}
    assert {"step 2", "step 3", "aten::mm"} <= names
    assert not names & {"step 1", "step 4"}


@pytest.mark.parametrize("text", ["12-10", "0-3", "a", "", "3-", "1-2-3", "-4"])
def test_what_is_no_span_of_steps_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 10-12"):
        steps_of(text)


def test_steps_that_are_still_to_come_are_traced(tmp_path: Path) -> None:
    assert profile_of((4, 10), done=3, total_steps=10, folder=tmp_path) == Profile(first=4, last=10, folder=str(tmp_path))


@pytest.mark.parametrize("span", [(3, 5), (1, 2), (9, 11), (11, 12)])
def test_steps_that_are_done_or_never_come_are_refused(tmp_path: Path, span: tuple[int, int]) -> None:
    with pytest.raises(InvalidSpec, match=rf"^--profile: {span[0]}-{span[1]} is not all among steps 4 to 10; choose some of these$"):
        profile_of(span, done=3, total_steps=10, folder=tmp_path)
