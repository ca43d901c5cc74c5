"""Whether a run ends early: a pure function of the losses that its checkpoints hold, whatever killed it on the way."""

import contextlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from finetune_api.finetunejob import EarlyStopping
from finetune_trainer.training.early_stopping import Evaluated, as_extra, evaluations_in, unbeaten
from finetune_trainer.training.loop import Agreement, Milestones, run_steps
from finetune_trainer.training.saving import Saved


def evaluated(*losses: float, every: int = 10) -> list[Evaluated]:
    return [Evaluated(index * every, loss) for index, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "step"),
    [
        ((3.0,), 1, 0.0, None),
        ((3.0, 2.0, 1.0), 1, 0.0, None),
        ((3.0, 2.0, 2.0), 1, 0.0, 10),  # equal is not better
        ((3.0, 2.0, 2.1, 1.9, 2.0), 2, 0.0, None),  # not in a row
        ((3.0, 2.0, 2.1, 2.2), 2, 0.0, 10),
        ((3.0, 3.1, 3.2, 3.3), 3, 0.0, 0),  # worse than the base model all the time
        ((3.0, 2.0, 1.95, 1.9), 2, 0.2, 10),
        ((3.0, 2.0, 1.9, 1.8, 1.7), 3, 0.25, None),  # small gains add up
        ((3.0, 2.75, 2.75), 2, 0.25, 0),  # by more than minDelta, and not by minDelta
        ((), 1, 0.0, None),
    ],
)
def test_the_evaluation_that_was_not_beaten_in_time(losses: tuple[float, ...], patience: int, min_delta: float, step: int | None) -> None:
    found = unbeaten(evaluated(*losses), EarlyStopping(patience=patience, min_delta=min_delta))
    assert (found.step if found else None) == step


def test_without_the_setting_nothing_ends_early() -> None:
    assert unbeaten(evaluated(1.0, 2.0, 3.0, 4.0, 5.0), None) is None


def test_a_manifest_keeps_every_loss_to_the_last_bit() -> None:
    draw = random.Random(5)
    history = [Evaluated(step, draw.uniform(0.0, 1e-3) + 0.1) for step in range(0, 500, 7)]
    assert evaluations_in(json.loads(json.dumps(as_extra(500, history)))) == history


def test_a_checkpoint_has_a_loss_of_its_own_where_it_was_evaluated() -> None:
    history = evaluated(3.0, 2.0)
    assert as_extra(10, history)["evaluationLoss"] == 2.0
    assert as_extra(12, history)["evaluationLoss"] is None
    assert as_extra(12, [])["evaluationLoss"] is None


def test_a_checkpoint_of_an_earlier_version_knows_no_evaluations() -> None:
    assert evaluations_in({"evaluationLoss": 2.0}) == []


class Killed(Exception):
    """The machine is gone."""


@dataclass
class Machine:
    """A rank whose loss after step s is `losses[s]`. Its disk holds what checkpoints keep, by step, a step or two later; it is gone at its
    call `dies_at`.
    """

    losses: list[float]
    disk: dict[int, str] = field(default_factory=dict)
    dies_at: int | None = None
    calls: int = 0
    looks: int = 0
    under_way: tuple[int, str] | None = None

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed

    def train(self, step: int) -> None:
        self._call()

    def evaluate(self, step: int) -> float:
        self._call()
        return self.losses[step]

    def checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> Saved | None:
        self._call()
        before = self._committed()
        self.under_way = (step, json.dumps(as_extra(step, evaluations)))
        return before

    def last_checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> None:
        self._committed()
        self._call()
        self.disk[step] = json.dumps(as_extra(step, evaluations))

    def agree(self, stop: bool, checkpoint: bool) -> Agreement:
        self._call()
        self.looks += 1
        return Agreement(stop=stop, checkpoint=checkpoint, saved=self._committed() if self.looks % 2 else None)

    def _committed(self) -> Saved | None:
        """Whatever was being written is on the disk now."""
        if self.under_way is None:
            return None
        step, text = self.under_way
        self.disk[step], self.under_way = text, None
        return Saved(step=step, manifest=None, blocked_seconds=0.0, write_seconds=0.0)

    def stop_requested(self) -> bool:
        return False


def lived_through(machine: Machine, milestones: Milestones) -> int:
    """One attempt: from the newest checkpoint on the disk."""
    done = max(machine.disk, default=0)
    evaluations = evaluations_in(json.loads(machine.disk[done])) if done else []
    return run_steps(machine, milestones, done=done, evaluations=evaluations)


def random_milestones(draw: random.Random) -> Milestones:
    return Milestones(
        total_steps=draw.randint(1, 40),
        evaluation_steps=draw.randint(1, 12),
        early_stopping=EarlyStopping(patience=draw.randint(1, 4), min_delta=draw.choice((0.0, 0.25, 0.3))),
        checkpoint_steps=draw.randint(1, 15),
        checkpoint_seconds=None,
        checkpoint_each_evaluation=draw.random() < 0.3,
    )


def test_a_run_that_is_killed_anywhere_ends_where_an_undisturbed_one_does() -> None:
    """Random losses, intervals, settings and kills: the same last step, and the same evaluations in the same checkpoint."""
    early = 0
    for seed in range(400):
        draw = random.Random(seed)
        milestones = random_milestones(draw)
        # Few values, so that equal losses and gains of just minDelta occur.
        losses = [draw.choice((1.0, 1.25, 1.5, 1.75, 2.0)) for _ in range(milestones.total_steps + 1)]

        undisturbed = Machine(losses)
        ended = lived_through(undisturbed, milestones)
        disk: dict[int, str] = {}
        for _ in range(draw.randint(1, 6)):
            with contextlib.suppress(Killed):
                lived_through(Machine(losses, disk, dies_at=draw.randint(1, 3 * milestones.total_steps)), milestones)
        assert lived_through(Machine(losses, disk), milestones) == ended, seed
        assert disk[ended] == undisturbed.disk[ended], seed
        assert ended == max(disk) == max(undisturbed.disk), seed

        # Why it ended is in that checkpoint: the next attempt has nothing to do, and needs no worker to see that.
        stopped = unbeaten(evaluations_in(json.loads(disk[ended])), milestones.early_stopping) is not None
        assert stopped or ended == milestones.total_steps, seed
        again = Machine(losses, disk)
        assert (lived_through(again, milestones), again.calls) == (ended, 0), seed
        early += ended < milestones.total_steps
    assert 100 < early < 300  # both ends are met often


def test_a_later_attempt_may_be_more_patient() -> None:
    """spec.evaluation may change between attempts: what is known stays, and training goes on."""
    milestones = Milestones(
        total_steps=6,
        evaluation_steps=1,
        early_stopping=EarlyStopping(patience=2),
        checkpoint_steps=None,
        checkpoint_seconds=None,
        checkpoint_each_evaluation=False,
    )
    losses, disk = [2.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5], {}
    assert lived_through(Machine(losses, disk), milestones) == 3
    assert lived_through(Machine(losses, disk), replace(milestones, early_stopping=EarlyStopping(patience=4))) == 5
    assert lived_through(Machine(losses, disk), replace(milestones, early_stopping=None)) == 6
