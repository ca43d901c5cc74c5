"""report.html: one file that says what a run was, how it went, and what it learnt from.

In: a `ReportData`, made by `report_data` from the run folder's files. Out: HTML that loads nothing: styles inside, charts
as inline SVG, no script. All text in it is untrusted (it is training data) and is escaped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune_api.duration import model_flops_utilisation
from finetune_api.evaluation_summary import EvaluationSummary
from finetune_api.training_run import Plan, TrainingRun
from finetune_trainer.files.atomic import write_atomically
from finetune_trainer.reporting.charts import Series, histogram, line_chart, smoothed
from finetune_trainer.reporting.evaluated import UNKNOWN, benchmarks, verdict_of
from finetune_trainer.reporting.events import CheckpointCommitted, EvaluationDone, StepDone, StoppedEarly
from finetune_trainer.reporting.metrics import Kept, read_metrics
from finetune_trainer.reporting.readable import count, duration, size, visible

# From this many steps on a single step's loss is noise, and a moving average says more.
_SMOOTH_FROM_STEPS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatistics:
    """What one data source gave. `dropped` counts by reason what was not used; `places` names the first rows of each reason.

    `told`: sentences about how its rows were read, and what of them was not. `card`: what its own README.md says (`data.cards.HubCard`),
    `commit` that of the Hub.
    """

    name: str
    dialogues: int
    tokens: int
    supervised_tokens: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    told: Sequence[str] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    commit: str | None = None

    @property
    def licence(self) -> str:
        """In the words of its card."""
        return str(self.card.get("licence_name") or "") or ", ".join(map(str, self.card.get("licences") or ())) or UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of decoded text and whether its tokens count in the loss."""

    text: str
    supervised: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training example as the model sees it; `origin` names source and row."""

    origin: str
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStatistics:
    """`lengths`: the histogram of training segments' lengths in tokens, as (lower, upper, count) in rising order."""

    sources: Sequence[SourceStatistics] = ()
    lengths: Sequence[tuple[float, float, int]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """All that the report shows. `outcome` is one word: finished, stopped, failed or running."""

    run: TrainingRun
    job_text: str
    measurements: Sequence[Kept]
    outcome: str = "finished"
    statistics: DataStatistics = DataStatistics()
    checkpoints: Sequence[CheckpointCommitted] = ()
    samples: Sequence[Sample] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    published: str = ""
    evaluation: EvaluationSummary | None = None  # of the evaluation stage

    @property
    def steps(self) -> list[StepDone]:
        """The measured optimizer steps."""
        return [event for event in self.measurements if isinstance(event, StepDone)]

    @property
    def seconds_in_steps(self) -> float:
        """Time of all steps up to the last measured one."""
        return sum(step.seconds for step in self.steps)

    @property
    def wall_seconds(self) -> float:
        """The same with evaluations, checkpoints and waits of the attempts; 0 where it isn't known."""
        return sum(step.wall_seconds for step in self.steps)

    @property
    def tokens(self) -> int:
        """Of all steps up to the last measured one."""
        return sum(step.tokens for step in self.steps)

    @property
    def evaluations(self) -> list[EvaluationDone]:
        """The evaluations, step 0 first."""
        return [event for event in self.measurements if isinstance(event, EvaluationDone)]

    @property
    def stopped_early(self) -> StoppedEarly | None:
        """Where and why training ended before its last step, if it did."""
        return next((event for event in self.measurements if isinstance(event, StoppedEarly)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One row of plan against seen, as text; `share` is seen over planned, None when either is unknown."""

    what: str
    planned: str
    seen: str
    share: float | None


def report_data(
    folder: Path,
    *,
    run: TrainingRun,
    outcome: str = "finished",
    checkpoints: Sequence[CheckpointCommitted] = (),
    samples: Sequence[Sample] | None = None,
    versions: Mapping[str, str] | None = None,
    published: str = "",
    evaluation: EvaluationSummary | None = None,
) -> ReportData:
    """What the run folder's files say; a file that isn't there leaves its part of the report out.

    Samples are those that preparation kept, unless others are given.
    """
    job_file, meta_file = folder / "job.yaml", folder / "prepared" / run.data.fingerprint / "meta.json"
    meta = json.loads(meta_file.read_text(encoding="utf-8")) if meta_file.exists() else {}
    statistics = meta.get("statistics", {})
    return ReportData(
        run=run,
        job_text=job_file.read_text(encoding="utf-8") if job_file.exists() else "",
        measurements=read_metrics(folder / "metrics.jsonl"),
        outcome=outcome,
        statistics=statistics_from_meta(statistics),
        checkpoints=checkpoints,
        samples=samples_from_meta(statistics) if samples is None else samples,
        versions=versions or {},
        published=published,
        evaluation=evaluation,
    )


def statistics_from_meta(statistics: Mapping[str, Any]) -> DataStatistics:
    """The `statistics` object of prepared/*/meta.json: `sources` and `lengths`, each of which may be absent."""
    sources = [
        SourceStatistics(
            name=str(source["name"]),
            dialogues=int(source.get("dialogues", 0)),
            tokens=int(source.get("tokens", 0)),
            supervised_tokens=int(source.get("supervised_tokens", 0)),
            dropped={str(reason): int(number) for reason, number in source.get("dropped", {}).items()},
            places=source.get("places", {}),
            told=source.get("told", ()),
            card=source.get("card", {}),
            commit=source.get("commit"),
        )
        for source in statistics.get("sources", [])
    ]
    lengths = [(float(low), float(high), int(number)) for low, high, number in statistics.get("lengths", [])]
    return DataStatistics(sources=sources, lengths=lengths)


def samples_from_meta(statistics: Mapping[str, Any]) -> list[Sample]:
    """The `samples` of the same object, which may be absent."""
    samples = statistics.get("samples", [])
    return [Sample(origin=sample["origin"], pieces=[Piece(**piece) for piece in sample["pieces"]]) for sample in samples]


def write_report(data: ReportData, path: Path) -> None:
    """Write the report at once or not at all. Lone surrogates in training text become question marks."""
    write_atomically(path, report_html(data).encode("utf-8", errors="replace"))


def report_html(data: ReportData) -> str:
    """The whole page."""
    return _template().render(
        data=data,
        run=data.run,
        job=data.run.job,
        plan=data.run.plan,
        tiles=_tiles(data),
        charts=_charts(data),
        lengths=_lengths(data),
        compared=plan_against_seen(data),
        note=next((event.note for event in data.evaluations if event.note), ""),
        evaluation=data.evaluation,
        benchmarks=benchmarks(data.evaluation) if data.evaluation else None,
        verdict=verdict_of(data.evaluation.judge) if data.evaluation and data.evaluation.judge else "",
    )


def plan_against_seen(data: ReportData) -> list[Compared]:
    """What was planned and what was measured: steps, tokens, time, memory, evaluation aside."""
    plan, train, steps = data.run.plan, data.run.data.train, data.steps
    logged = steps[-1].step if steps else 0
    done = data.stopped_early.step if data.stopped_early is not None else logged
    seconds = data.seconds_in_steps
    passes = plan.total_steps / plan.steps_per_epoch if plan.total_steps and plan.steps_per_epoch else None
    planned_tokens = None if passes is None else train.tokens * passes
    planned_supervised = None if passes is None else train.supervised_tokens * passes
    return [
        _compared("optimizer steps", plan.total_steps, done, count),
        _compared("tokens", planned_tokens, data.tokens, count),
        _compared("supervised tokens", planned_supervised, sum(step.supervised_tokens for step in steps), count),
        _compared("time in steps", plan.seconds, seconds, duration, best=plan.timing.best_seconds if plan.timing else None),
        _compared(
            "time a step",
            plan.seconds_per_step,
            seconds / logged if logged else 0.0,
            duration,
            best=plan.timing.best_seconds_per_step if plan.timing else None,
        ),
        *_utilisation(data, data.tokens / seconds if seconds else 0.0),
        _compared("memory of a worker", _planned_memory(plan), max((step.memory_bytes for step in steps), default=0), size),
        _compared("checkpoint", plan.checkpoint_bytes, max((checkpoint.bytes for checkpoint in data.checkpoints), default=0), size),
    ]


def _planned_memory(plan: Plan) -> int | None:
    """Of a GPU what tensors take, as torch counts it; of a CPU worker its process."""
    if plan.memory is None:
        return None
    beside = sum(term.bytes for term in plan.memory.terms if term.basis == "assumed") if plan.device == "gpu" else 0
    return plan.memory.total_bytes - beside


def _utilisation(data: ReportData, tokens_per_second: float) -> list[Compared]:
    """MFU, where a peak is known."""
    timing = data.run.plan.timing
    seen = model_flops_utilisation(data.run, tokens_per_second)
    if timing is None or timing.mfu is None or seen is None:
        return []
    return [_compared("MFU", timing.mfu, seen, "{:.1%}".format, best=timing.best_mfu)]


def _compared(what: str, planned: float | None, seen: float, text: Any, *, best: float | None = None) -> Compared:
    """A number of 0 means that nothing was measured. `best`: the better end of what was planned; the share is of the other."""
    share = seen / planned if planned and seen else None
    shown = "unknown" if planned is None else text(planned)
    if best is not None and text(best) != shown:
        shown = f"{text(best)} to {shown}"
    return Compared(what=what, planned=shown, seen=text(seen) if seen else "not measured", share=share)


def _tiles(data: ReportData) -> list[tuple[str, str, str]]:
    """The numbers to look at first: (label, value, what stands below it)."""
    return _evaluation_tiles(data) + _judge_tiles(data) + _step_tiles(data)


def _evaluation_tiles(data: ReportData) -> list[tuple[str, str, str]]:
    if not data.evaluations:
        return []
    first, last = data.evaluations[0], data.evaluations[-1]
    compared = last.step > first.step and first.loss
    change = f"from {first.loss:.3f}, {(last.loss - first.loss) / first.loss:+.0%}" if compared else f"after step {last.step}"
    tiles = [("evaluation loss", f"{last.loss:.3f}", change)]
    if (early := data.stopped_early) is not None and early.best_step < early.step:
        tiles.append(("best evaluation loss", f"{early.best_loss:.3f}", f"after step {early.best_step}"))
    if last.perplexity is not None:
        held_out = data.run.data.evaluation
        tiles.append(("perplexity", f"{last.perplexity:,.2f}", f"on {count(held_out.dialogues)} dialogues" if held_out else ""))
    return tiles


def _judge_tiles(data: ReportData) -> list[tuple[str, str, str]]:
    judge = data.evaluation.judge if data.evaluation else None
    if judge is None:
        return []
    return [("judge's win rate over base", f"{judge.win_rate:.0%}", f"95 %: {judge.low:.0%} to {judge.high:.0%}, {judge.prompts:,} pairs")]


def _step_tiles(data: ReportData) -> list[tuple[str, str, str]]:
    steps, plan = data.steps, data.run.plan
    if not steps:
        return []
    last, seconds, early = steps[-1], data.seconds_in_steps, data.stopped_early
    done, why = (last.step, f"{last.epoch:.3g} epochs") if early is None else (early.step, "stopped early")
    speed = data.tokens / seconds if seconds else 0.0
    slowest = [] if last.spread is None else [("slowest rank's own time", f"{last.spread:.2f} x", f"the median's; {last.slowest}")]
    return [
        ("training loss", f"{last.loss:.3f}", f"from {steps[0].loss:.3f}"),
        ("optimizer steps", f"{done:,}", f"of {last.total_steps:,}, {why}"),
        ("tokens/s in steps", f"{speed:,.0f}", f"{plan.world_size} workers, {plan.device}, {plan.precision}"),
        ("time in steps", duration(seconds), _around(data)),
        *slowest,
    ]


def _around(data: ReportData) -> str:
    """What share of the time the steps had, and how fast it went with all that lies between them."""
    wall = data.wall_seconds
    return f"{data.seconds_in_steps / wall:.0%} of {duration(wall)}: {data.tokens / wall:,.0f} tokens/s in all" if wall else ""


def _charts(data: ReportData) -> dict[str, Markup]:
    """Chart by name; the page decides where it goes."""
    steps = data.steps

    def points(attribute: str) -> list[tuple[float, float]]:
        return [(step.step, getattr(step, attribute)) for step in steps]

    def small(attribute: str, title: str, number: Any, *, color: int) -> Markup:
        line = Series(label=title, points=points(attribute), color=color)
        return line_chart([line], title=title, number=number, from_zero=True, width=320, height=190)

    return {
        "loss": line_chart(_loss_series(data), title="Loss by step", number=lambda value: f"{value:.3g}", width=980, height=320),
        "learning_rate": small("learning_rate", "Learning rate", lambda value: f"{value:.1e}" if value else "0", color=2),
        "grad_norm": small("grad_norm", "Gradient norm", lambda value: f"{value:.3g}", color=3),
        "speed": small("tokens_per_second", "Tokens per second", count, color=4),
    }


def _loss_series(data: ReportData) -> list[Series]:
    train = [(float(step.step), step.loss) for step in data.steps]
    evaluation = Series(label="evaluation", points=[(event.step, event.loss) for event in data.evaluations], color=1, dots=True)
    if len(train) < _SMOOTH_FROM_STEPS:
        return [Series(label="training", points=train, color=0), evaluation]
    mean = Series(label="training, moving average", points=smoothed(train, window=max(5, len(train) // 20)), color=0)
    return [Series(label="training", points=train, color=0, faint=True), mean, evaluation]


def _lengths(data: ReportData) -> Markup:
    return histogram(data.statistics.lengths, title="Tokens in a dialogue", x_label="tokens")


def _shown(value: object) -> object:
    """Whatever the page shows of others' texts; it is escaped after that."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": count, "size": size, "duration": duration}
    return environment.get_template("report.html.jinja")
