"""From answers to a judge's folder: asks, writes results and report, and says how far it got when something ends it.

In: pairs or answers, an endpoint's settings, a folder. Out: the summary; the folder holds the rest. What a command line looks like is
unknown here.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.errors import EndpointFailed, FineTuneError, Interrupted
from finetune_assistant.endpoint.budget import Budget
from finetune_assistant.endpoint.client import Endpoint, EndpointSettings
from finetune_assistant.endpoint.pace import Pace
from finetune_assistant.judging.answers import Answer, Pairs
from finetune_assistant.judging.folder import PairRun, ScoreRun, identity_of, opened, read_pair_run, write_pairs, write_scores
from finetune_assistant.judging.pairs import JudgedAnswer, JudgedPair, judge_answers, judge_pairs
from finetune_assistant.judging.report import write_pair_report, write_score_report
from finetune_assistant.judging.summary import judges_compared, pair_summary, score_summary
from finetune_assistant.judging.verdict import UNFINISHED
from finetune_trainer.files.atomic import write_atomically

Progress = Callable[[int, int], None]


class NothingReadable(EndpointFailed):
    """The judge answered, and no score could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a judge is asked. `budget` and `pace` are used up by one run."""

    settings: EndpointSettings
    budget: Budget = field(default_factory=Budget)
    pace: Pace = field(default_factory=Pace)
    concurrency: int = 4
    seed: int = 0


def run_pairs(
    pairs: Pairs, folder: Path, plan: Plan, *, against: Sequence[Path] = (), takes_over: bool = False, on_progress: Progress
) -> dict[str, Any]:
    """Judge pairs; the summary. `against`: folders of other judges of the same pairs. `takes_over`: as of `folder.opened`."""
    others = [read_pair_run(path) for path in against]
    work, total, settings = pairs.pairs, len(pairs.pairs), plan.settings
    identity = identity_of(settings.model, pairs.names, work, temperature=settings.temperature, max_tokens=settings.max_tokens)
    place = {pair.key: number for number, pair in enumerate(work)}
    done: list[JudgedPair] = []

    def written(endpoint: Endpoint) -> dict[str, Any]:
        done.sort(key=lambda judged: place[judged.pair.key])
        run = PairRun(judge=settings.model, names=pairs.names, pairs=done, total=total)
        compared = [judges_compared(run, other) for other in others]
        summary = pair_summary(run, seed=plan.seed) | {"against": compared, **_spent(endpoint, plan.budget)}
        write_pairs(folder, done)
        _write_summary(folder, summary)
        write_pair_report(folder / "report.html", run, summary, list(zip(others, compared, strict=True)))
        return summary

    with (
        opened(folder, identity, takes_over=takes_over) as requests,
        _asking(requests, plan) as endpoint,
        _told(lambda: len(done), total, folder),
    ):
        try:
            for judged in judge_pairs(work, endpoint, concurrency=plan.concurrency):
                done.append(judged)
                on_progress(len(done), total)
        finally:
            summary = written(endpoint)
    if not summary["winRate"]["pairs"]:
        raise NothingReadable(_nothing(summary["unreadable"], folder))
    return summary


def run_scores(
    files: Sequence[Sequence[Answer]], names: Sequence[str], folder: Path, plan: Plan, *, on_progress: Progress
) -> dict[str, Any]:
    """Judge answers by themselves, one file or two; the summary."""
    settings, work = plan.settings, [answer for answers in files for answer in answers]
    identity = identity_of(settings.model, names, work, temperature=settings.temperature, max_tokens=settings.max_tokens)
    done: list[list[JudgedAnswer]] = [[] for _ in files]

    def written(endpoint: Endpoint) -> dict[str, Any]:
        for answers, judged in zip(files, done, strict=True):
            place = {answer.key: number for number, answer in enumerate(answers)}
            judged.sort(key=lambda one: place[one.answer.key])
        run = ScoreRun(judge=settings.model, names=names, answers=done, total=len(work))
        summary = score_summary(run, seed=plan.seed) | _spent(endpoint, plan.budget)
        write_scores(folder, done)
        _write_summary(folder, summary)
        write_score_report(folder / "report.html", run, summary)
        return summary

    with opened(folder, identity) as requests, _asking(requests, plan) as endpoint, _told(lambda: sum(map(len, done)), len(work), folder):
        try:
            for answers, judged in zip(files, done, strict=True):
                for one in judge_answers(answers, endpoint, concurrency=plan.concurrency):
                    judged.append(one)
                    on_progress(sum(map(len, done)), len(work))
        finally:
            summary = written(endpoint)
    if not any(model["scored"] for model in summary["models"]):
        raise NothingReadable(_nothing(summary["models"][0]["unreadable"], folder))
    return summary


@contextmanager
def _asking(requests: Path, plan: Plan) -> Iterator[Endpoint]:
    endpoint = Endpoint(plan.settings, requests, plan.budget, plan.pace)
    try:
        yield endpoint
    finally:
        endpoint.close()


@contextmanager
def _told(done: Callable[[], int], total: int, folder: Path) -> Iterator[None]:
    """Errors that end the work, and Ctrl-C, say how far it got and how it goes on."""
    try:
        yield
    except (FineTuneError, KeyboardInterrupt) as error:
        told = f"{done():,} of {total:,} are judged, and all replies are kept in {folder}: run the command again, and it goes on"
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"stopped; {told}") from error
        raise type(error)(f"{error}; {told}") from error


def _spent(endpoint: Endpoint, budget: Budget) -> dict[str, Any]:
    asked = endpoint.asked
    requests = {"sent": asked.sent, "fromCache": asked.from_cache, "retried": asked.retried}
    return {"requests": requests, "tokens": budget.tokens, "usd": round(budget.usd, 6), "notes": asked.notes}


def _write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    write_atomically(folder / "summary.json", json.dumps(summary, ensure_ascii=False, indent=1) + "\n")


def _nothing(problems: Mapping[str, int], folder: Path) -> str:
    most = next(iter(problems), "no reply")
    remedy = "raise --max-tokens, or choose another --model" if most in UNFINISHED else "choose another --model"
    return f"no reply of the judge could be read (mostly: {most}); look at {folder}/report.html, and {remedy}, and another --output"
