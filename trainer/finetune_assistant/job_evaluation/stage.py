"""THE STORY of a job's evaluation: both models answer, a judge compares, benchmarks are asked, and a summary says what came of it.

In: an exported checkpoint and its base, the job, a folder. Out: the summary; the folder holds the rest:

    answers/          each model's answers, a file a set of questions      measured/         numbers of benchmarks, a file a model and task
    samples.jsonl     the same side by side                                evaluation.json   all of them, as `finetune evaluate` writes them
    judge/            as `finetune judge` writes it                        summary.json      written last: without it nothing is done

Whatever a killed evaluation left there isn't done again. What may fail for reasons outside comes first: a judge before hours of benchmarks.
Pods, terminals and storage are unknown here.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from finetune_api.checks import is_path
from finetune_api.errors import BudgetSpent, InvalidInput
from finetune_api.evaluation_summary import SUMMARY_FILE, EvaluationSummary
from finetune_assistant.answers.samples import Asked, Questions, answer_all, side_by_side
from finetune_assistant.evaluation.harness import HarnessSettings
from finetune_assistant.evaluation.kept_parts import KeptParts
from finetune_assistant.evaluation.pipeline import Wanted, evaluation
from finetune_assistant.evaluation.results import Evaluation, to_json
from finetune_assistant.job_evaluation.asking import GREEDY, JUDGED, SAMPLED, base_name, harness_settings, judge_plan, questions, task_data
from finetune_assistant.job_evaluation.checks import check_evaluation
from finetune_assistant.job_evaluation.summary import summary_of
from finetune_assistant.job_evaluation.telling import Told
from finetune_assistant.job_evaluation.words import fields_are_named, in_words_of_a_job
from finetune_assistant.judging.answers import paired, read_answers
from finetune_assistant.judging.run import run_pairs
from finetune_trainer.files.atomic import make_folder, write_atomically
from finetune_trainer.reporting.events import Event, Notice
from finetune_trainer.stages.export import Exported
from finetune_trainer.stages.local_run import LocalRun

# In names of files and of fields.
_BASE: Final = "base"
_TUNED: Final = "tuned"
# Pairs that are with the judge at once.
_CONCURRENCY: Final = 4


class JobEvaluation:
    """What `finetune_trainer.stages.evaluation` calls an EvaluationStage."""

    def __init__(self, saved: Callable[[], None] = lambda: None) -> None:
        """`saved` is called when something is done that shouldn't be done twice."""
        self._saved = saved

    def check(self, local: LocalRun) -> None:
        """Refuse before training what would fail after it."""
        check_evaluation(
            local.job,
            base=local.base,
            secrets=local.secrets,
            notice=lambda text: local.sink.record(Notice(message=text)),
            has_begun=local.folder.frozen_run() is not None,
        )

    def measure(self, local: LocalRun, exported: Exported, folder: Path, digest: str, record: Callable[[Event], None]) -> EvaluationSummary:
        """Measure the exported checkpoint. Raises InvalidInput for what is wrong with the job, RunFailed for what may go well later."""
        make_folder(folder)
        with fields_are_named():
            told = Told(record, lambda text: in_words_of_a_job(_without_places(text, local)))
            return _measured(local, exported, folder, digest, told, self._saved)


def _measured(local: LocalRun, exported: Exported, folder: Path, digest: str, told: Told, saved: Callable[[], None]) -> EvaluationSummary:
    job, models = local.job, _models(local, exported)
    asked = questions(job, local.base)
    if asked:
        for model in models:
            answer_all(
                model,
                asked,
                folder / "answers",
                batch_size=job.spec.evaluation.batch_size,
                progress=told.progress,
                note=told.note,
                saved=saved,
            )
    samples = _samples(asked, models, folder)
    judged = _judged(local, asked, models, folder, told)
    saved()
    measured = _benchmarks(local, models, folder, told, saved)
    summary = summary_of(
        digest=digest,
        exported=exported,
        base_model=base_name(job),
        evaluation=measured,
        judged=judged,
        samples=samples,
        notes=told.notes,
    )
    write_atomically(folder / SUMMARY_FILE, summary.to_json())
    return summary


def _without_places(text: str, local: LocalRun) -> str:
    """A note as it may stand in a card: nobody should read there how somebody's disk is laid out."""
    text = text.replace(f"{local.base}/", "")
    for source in local.job.spec.dataset.sources:
        if is_path(source.path):
            text = text.replace(source.path, PurePosixPath(source.path).name)
    return text


def _models(local: LocalRun, exported: Exported) -> list[Asked]:
    """The tuned model and, if it has weights, its base."""
    tuned = Asked(key=_TUNED, name=local.job.metadata.name, folder=exported.folder, digest=exported.checkpoint)
    if exported.base is None:
        return [tuned]
    return [tuned, Asked(key=_BASE, name=base_name(local.job), folder=exported.base, digest=exported.base_revision)]


def _samples(asked: Sequence[Questions], models: Sequence[Asked], folder: Path) -> list[dict[str, Any]]:
    """The answers to each prompt side by side, as `summary_of` takes them; also a file of their own."""
    of_samples = [each for each in asked if each.name in (GREEDY, SAMPLED)]
    if not of_samples:
        return []
    files = {f"{model.key}_{each.name}": each.file(folder / "answers", model.key) for each in of_samples for model in models}
    rows = side_by_side(files)
    write_atomically(folder / "samples.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(errors="replace"))
    return rows


def _judged(local: LocalRun, asked: Sequence[Questions], models: Sequence[Asked], folder: Path, told: Told) -> Mapping[str, Any] | None:
    """The summary of the judge's folder, or None where no judge is asked for: a is the tuned model, b its base."""
    wanted = next((each for each in asked if each.name == JUDGED), None)
    if wanted is None:
        return None
    answers = {model.key: read_answers(wanted.file(folder / "answers", model.key)) for model in models}
    pairs = paired(answers[_TUNED], answers[_BASE])

    def judged(concurrency: int) -> Mapping[str, Any]:
        plan = replace(judge_plan(local.job, local.secrets), concurrency=concurrency)
        progress = told.progress(f"pairs for {plan.settings.model}")
        # Prompts may have changed since a pod was ended, or it had copied replies and not yet whose they are.
        return run_pairs(pairs, folder / "judge", plan, takes_over=True, on_progress=progress)

    try:
        return judged(_CONCURRENCY)
    except BudgetSpent:  # for what several requests may cost at most: one by one, what is left may do
        return _within_budget(local, lambda: judged(1), folder, told)


def _within_budget(local: LocalRun, judged: Callable[[], Mapping[str, Any]], folder: Path, told: Told) -> Mapping[str, Any]:
    """What can be judged before the tokens are spent. Raises InvalidInput if that is nothing, or too little for the gate: done once,
    it would be judged no further, whatever the budget is then.
    """
    try:
        return judged()
    except BudgetSpent as error:
        summary: dict[str, Any] = json.loads((folder / "judge" / "summary.json").read_text(encoding="utf-8"))
        rate, judge, gate = summary["winRate"], local.job.spec.evaluation.judge, local.job.spec.publish.gate.judge_win_rate
        assert judge is not None
        if not rate["pairs"]:
            raise InvalidInput(f"spec.evaluation.judge.maxTokens={judge.max_tokens} isn't enough for one pair; raise it") from error
        counted = f"{summary['judged']} of {summary['prompts']} pairs are judged, and the win rate is theirs"
        if gate is not None and rate["low"] < gate.min:
            spent = f"spec.evaluation.judge.maxTokens={judge.max_tokens} is spent: {counted}"
            low = f"the lower end of its 95 % interval, {rate['low']:.3f}, is below spec.publish.gate.judgeWinRate.min={gate.min:g}"
            raise InvalidInput(f"{spent}: {low}; raise maxTokens, and the other pairs are judged, or ease the gate") from error
        told.note(f"spec.evaluation.judge.maxTokens is spent: {counted}")
        return summary


def _benchmarks(local: LocalRun, models: Sequence[Asked], folder: Path, told: Told, saved: Callable[[], None]) -> Evaluation | None:
    """The numbers of base and tuned, in this order; None where no task is asked for."""
    job = local.job
    if not job.spec.evaluation.tasks:
        return None
    settings, in_order = harness_settings(job), models[::-1]
    with tempfile.TemporaryDirectory(prefix="finetune-tasks-") as definitions:
        wanted = Wanted(
            models=tuple(str(model.folder) for model in in_order),
            called=tuple(model.name for model in in_order),
            tasks=tuple(job.spec.evaluation.tasks),
            task_data=task_data(job, local.base),
            perplexity=(),
            task_folder=Path(definitions),
        )
        kept = KeptParts(folder / "measured", _identity(settings), saved)
        found = evaluation(wanted, settings, told.progress, told.note, kept=kept)
    write_atomically(folder / "evaluation.json", to_json(found))
    return found


def _identity(settings: HarnessSettings) -> dict[str, Any]:
    """What numbers depend on beside model and tasks."""
    from importlib.metadata import version

    names = ("num_fewshot", "limit", "dtype", "seed", "chat_template")
    return {name: getattr(settings, name) for name in names} | {"lmEval": version("lm-eval")}
