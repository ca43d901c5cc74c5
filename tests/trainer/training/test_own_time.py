"""training/own_time.py on heads alone; test_engine.py has it in a step of two ranks."""

import pytest
import torch
from torch import nn

from finetune_trainer.model.loss import LossHead
from finetune_trainer.training.own_time import OwnTime

CPU = torch.device("cpu")


class Clock:
    """Each look is a second later."""

    at = 0.0

    def __call__(self) -> float:
        self.at += 1.0
        return self.at


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, OwnTime]:
    monkeypatch.setattr("time.perf_counter", Clock())
    head = LossHead(8, 16)
    return head, OwnTime(head, CPU)


def test_seconds_a_token_since_the_last_time(watched: tuple[nn.Module, OwnTime]) -> None:
    head, own = watched
    for tokens in (3, 5):
        head(torch.ones(tokens, 8), labels=torch.zeros(tokens, dtype=torch.int64))
    assert own.take() == 2.0 / 8
    assert own.take() is None


def test_evaluation_and_calls_without_anything_to_learn_do_not_count(watched: tuple[nn.Module, OwnTime]) -> None:
    head, own = watched
    head(torch.ones(0, 8), labels=torch.zeros(0, dtype=torch.int64))
    head.eval()(torch.ones(4, 8), labels=torch.zeros(4, dtype=torch.int64))
    assert own.take() is None


def test_a_model_without_a_head_has_no_time() -> None:
    assert OwnTime(None, CPU).take() is None
