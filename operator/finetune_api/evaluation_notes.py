"""What a reader of a plan should know of evaluations during training: how often, what they cost, when they may end the run. Pure."""

from collections.abc import Iterator

from finetune_api.duration import Steps, evaluation_interval, evaluation_share, num_evaluations
from finetune_api.finetunejob import EarlyStopping, FineTuneJobSpec
from finetune_api.training_run import DataShape


def evaluation_notes(spec: FineTuneJobSpec, data: DataShape | None, steps: Steps) -> list[str]:
    """A sentence each; what isn't known yet is left out."""
    if spec.dataset.evaluation is None:
        return ["Nothing is held out (dataset.evaluation is absent): there will be no evaluation loss."]
    rule = spec.evaluation.early_stopping
    return [*_cost(spec, data, steps), *(_early_end(spec, rule, steps) if rule is not None else ())]


def _cost(spec: FineTuneJobSpec, data: DataShape | None, steps: Steps) -> Iterator[str]:
    count, share = num_evaluations(spec, steps), evaluation_share(spec, data, steps)
    if data is None or data.evaluation is None or count is None or share is None:
        return
    interval = evaluation_interval(spec.evaluation, steps.steps_per_epoch or 0)
    when = "before the first step and after the last"
    if count > 2:
        when = f"before the first step, every {interval} step{'s' if interval > 1 else ''} and after the last"
    committed = ", each but the first with a checkpoint (publish.checkpoint: best)" if spec.publish.checkpoint == "best" else ""
    yield f"Held-out data is evaluated {count} times, {when}{committed}: {share:.1%} of the computing."


def _early_end(spec: FineTuneJobSpec, rule: EarlyStopping, steps: Steps) -> Iterator[str]:
    """When it may come, where that is known, and which checkpoint is published then."""
    if num_evaluations(spec, steps) is not None and steps.total is not None:
        soonest = rule.patience * evaluation_interval(spec.evaluation, steps.steps_per_epoch or 0)
        if soonest < steps.total:
            yield f"evaluation.earlyStopping ends it after step {soonest} at the soonest: steps and time are the most that it takes."
        else:
            yield (
                f"evaluation.earlyStopping can't end this run: evaluation {rule.patience} after the first one comes at step {soonest}, and "
                f"there are {steps.total}; lower patience, or evaluate more often (evaluation.everySteps)."
            )
    if spec.publish.checkpoint == "last":
        after = f"{rule.patience} evaluation{'s' if rule.patience > 1 else ''} after the best one"
        yield (
            f"publish.checkpoint: last is the state that evaluation.earlyStopping ends with, {after}; "
            "with publish.checkpoint: best that one is published."
        )
