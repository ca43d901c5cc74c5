"""Whether a run ends before its last step: a pure function of the evaluation losses that its checkpoint holds.

In: the evaluations so far, as the manifest keeps them, and spec.evaluation.earlyStopping. Out: None, or why training ends here. No clock,
rank or former attempt has a say, so every rank decides alike, and so does an attempt that goes on from a checkpoint, at any world size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finetune_api.finetunejob import EarlyStopping
from finetune_api.training_run import TrainingRun
from finetune_trainer.checkpoints.manifest import Manifest
from finetune_trainer.reporting.events import StoppedEarly

# Keys of what a manifest has beside its tensors.
EVALUATIONS: Final = "evaluations"
EVALUATION_LOSS: Final = "evaluationLoss"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Loss per supervised token of the held-out dialogues after `step` steps."""

    step: int
    loss: float


def unbeaten(evaluations: Sequence[Evaluated], rule: EarlyStopping | None) -> Evaluated | None:
    """The evaluation that the newest `patience` ones are not better than, if there are as many after it: then training ends.

    Better is a loss below that of the last better one by more than `minDelta`; the first evaluation, that of step 0, is the one to begin
    with. Small gains add up: what is compared moves only with a gain of more than `minDelta`.

    >>> losses = [Evaluated(step, loss) for step, loss in ((0, 3.0), (10, 2.0), (20, 2.1), (30, 2.0))]
    >>> unbeaten(losses, EarlyStopping(patience=2))
    Evaluated(step=10, loss=2.0)
    >>> unbeaten(losses, EarlyStopping(patience=3)) is None
    True
    """
    if rule is None or not evaluations:
        return None
    better, since = evaluations[0], 0
    for one in evaluations[1:]:
        better, since = (one, 0) if one.loss < better.loss - rule.min_delta else (better, since + 1)
    return better if since >= rule.patience else None


def stopped_early(run: TrainingRun, checkpoint: Manifest) -> StoppedEarly | None:
    """What to tell of a run that ends with that checkpoint, which isn't its last step's; None where it doesn't."""
    rule, evaluations, total_steps = run.job.spec.evaluation.early_stopping, evaluations_in(checkpoint.extra), run.plan.total_steps
    assert total_steps is not None, "the final plan knows the number of steps"
    compared = unbeaten(evaluations, rule)
    if compared is None or rule is None or checkpoint.step >= total_steps:
        return None
    best = min(evaluations, key=lambda one: (one.loss, one.step))
    return StoppedEarly(
        step=checkpoint.step,
        total_steps=total_steps,
        loss=evaluations[-1].loss,
        best_step=best.step,
        best_loss=best.loss,
        message=_told(checkpoint.step, total_steps, compared, best, rule),
    )


def _told(step: int, total_steps: int, compared: Evaluated, best: Evaluated, rule: EarlyStopping) -> str:
    count = f"none of the last {rule.patience} evaluations was" if rule.patience > 1 else "the last evaluation wasn't"
    by = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
    at = "before the first step" if compared.step == 0 else f"of step {compared.step}"
    than = f"{count} better than the loss {compared.loss:.4f} {at}{by}"
    lowest = "" if best == compared else f"; the lowest was {best.loss:.4f} at step {best.step}"
    return f"stopped early at step {step} of {total_steps}: {than}{lowest} (evaluation.earlyStopping)"


def as_extra(step: int, evaluations: Sequence[Evaluated]) -> dict[str, Any]:
    """What a checkpoint of that step keeps of the evaluations: all of them, exactly, and apart its own."""
    own = evaluations[-1].loss if evaluations and evaluations[-1].step == step else None
    return {EVALUATIONS: [[one.step, one.loss] for one in evaluations], EVALUATION_LOSS: own}


def evaluations_in(extra: Mapping[str, Any]) -> list[Evaluated]:
    """The evaluations that a checkpoint knows, in order. Those of earlier versions know none, and the count begins with them."""
    return [Evaluated(step, loss) for step, loss in extra.get(EVALUATIONS, ())]
