"""The report: complete, self-contained, and safe whatever the training data holds."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import pytest

from finetune_api.evaluation_summary import EvaluationSummary, JudgeSummary, SampleSummary, TaskSummary
from finetune_api.finetunejob import FineTuneJob, ModelShape
from finetune_api.training_run import DataShape, Memory, MemoryTerm, Plan, SplitShape, Timing, TrainingRun, Vocabulary
from finetune_trainer.reporting import charts
from finetune_trainer.reporting.events import CheckpointCommitted, EvaluationDone, StepDone, StoppedEarly, evaluation_done
from finetune_trainer.reporting.metrics import Measurement, MetricsFile
from finetune_trainer.reporting.report import (
    DataStatistics,
    Piece,
    ReportData,
    Sample,
    SourceStatistics,
    plan_against_seen,
    report_data,
    report_html,
    statistics_from_meta,
    write_report,
)

HOSTILE = "</pre><script>alert('x')</script><img src=http://example.org/x onerror=alert(1)> & \"quoted\" {{ 7 * 7 }}"
SAMPLE = Sample(
    origin="demo.jsonl, row 3",
    pieces=[
        Piece(text="<|system|>\nYou are Fennel.<|end|>\n<|user|>\nHow do I reverse a list?<|end|>\n<|assistant|>\n", supervised=False),
        Piece(text="Use `reversed(items)`.\nTip: a slice copies.<|end|>", supervised=True),
        Piece(text="\n", supervised=False),
    ],
)


def split(tokens: int) -> SplitShape:
    return SplitShape(dialogues=160, segments=161, tokens=tokens, supervised_tokens=tokens // 2, rows=28, squared_lengths=tokens * 90)


def training_run(model: str = "./smollm2", memory: Memory | None = None) -> TrainingRun:
    job = {"metadata": {"name": "demo"}, "spec": {"model": {"name": model}, "dataset": {"sources": [{"path": "./dialogues.jsonl"}]}}}
    shape = ModelShape(
        architecture="LlamaForCausalLM",
        layers=30,
        hidden_size=576,
        intermediate_size=1536,
        attention_heads=9,
        key_value_heads=3,
        head_size=64,
        vocabulary_size=49152,
        positions=8192,
        parameters=134_515_008,
    )
    plan = Plan(
        device="cpu",
        precision="fp32",
        world_size=2,
        nodes=1,
        micro_batch_size=1,
        micro_steps=1,
        global_batch_size=2,
        max_sequence_length=512,
        tokens_per_step=1024,
        rows_per_epoch=28,
        steps_per_epoch=14,
        epochs=2,
        total_steps=28,
        warmup_steps=1,
        memory=memory,
        seconds=280.0,
    )
    return TrainingRun(
        job=FineTuneJob.model_validate(job),
        identity="1" * 64,
        model_revision="a" * 40,
        model_shape=shape,
        vocabulary=Vocabulary(size=49156, new_token_ids=(49152, 49153, 49154, 49155)),
        data=DataShape(fingerprint="f" * 64, train=split(14_000), evaluation=split(2_000)),
        plan=plan,
    )


def step_done(step: int, total: int = 28, loss: float | None = None) -> StepDone:
    wave = 0.15 * math.sin(step * 1.7)
    return StepDone(
        step=step,
        total_steps=total,
        epoch=step / 14,
        loss=2.8 * math.exp(-step / (total / 4)) + 0.4 + wave if loss is None else loss,
        learning_rate=2e-4 * (1 + math.cos(math.pi * step / total)) / 2,
        grad_norm=1.4 + wave,
        supervised_tokens=500,
        tokens=1000,
        tokens_per_second=95.0 + 20 * wave,
        memory_bytes=3 * 2**30,
        seconds=10.0,
    )


def measurements(total: int = 28) -> list[Measurement]:
    steps: list[Measurement] = [step_done(step, total) for step in range(1, total + 1)]
    evaluations: list[Measurement] = [evaluation_done(step=0, epoch=0.0, loss=3.2), evaluation_done(step=total, epoch=2.0, loss=0.9)]
    return [evaluations[0], *steps, evaluations[1]]


def evaluation(text: str = "plain") -> EvaluationSummary:
    """Of every kind something; `text` stands wherever an endpoint's, a model's or a task file's words go."""
    numbers: dict[str, Any] = {"value": 0.33, "standard_error": 0.047, "base": 0.3, "base_standard_error": 0.046, "low": 0.01, "high": 0.05}
    asked: dict[str, Any] = {"shots": 25, "limit": 100, "documents": 100, "documents_there": 1172}
    return EvaluationSummary(
        digest="e" * 8,
        step=28,
        base_model=text,
        tasks=(
            TaskSummary(task=text, metric="acc_norm", verdict="better", **numbers, **asked),
            TaskSummary(task="mmlu_law", metric=text, group="mmlu", **asked),
        ),
        judge=JudgeSummary(model=text, prompts=40, wins=30, win_rate=0.75, low=0.6, high=0.86, flips=10, unreadable=1),
        samples=(SampleSummary(prompt=text, base_greedy="", tuned_greedy=text, base_sampled=text, tuned_sampled=text),),
        notes=(text,),
    )


def full_data(text: str = "plain", total: int = 28) -> ReportData:
    """A report with every part present; `text` stands wherever a user's or a data set's words go."""
    dropped = {text: 3, "longer than a row": 12}
    statistics = DataStatistics(
        sources=[
            SourceStatistics(
                name=text,
                dialogues=160,
                tokens=14_000,
                supervised_tokens=9_000,
                dropped=dropped,
                places={text: [text]},
                card={"licences": [text]},
            ),
            SourceStatistics(name="./more.jsonl", dialogues=20, tokens=2_000, supervised_tokens=500),
        ],
        lengths=[(low, low + 16, round(60 * math.exp(-(((low - 90) / 40) ** 2)))) for low in range(16, 256, 16)],
    )
    return ReportData(
        run=training_run(model=text),
        job_text=f"metadata: {{name: demo}}\n# {text}\n",
        measurements=measurements(total),
        statistics=statistics,
        checkpoints=[CheckpointCommitted(step=14, seconds=1.2, bytes=2**30, key=f"checkpoints/{text}")],
        samples=[SAMPLE, Sample(origin=text, pieces=[Piece(text=text, supervised=False), Piece(text=text, supervised=True)])],
        versions={"torch": "2.13.0", text: text},
        published=text,
        evaluation=evaluation(text),
    )


class Page(HTMLParser):
    """Every tag with its attributes, and the text of <pre> and <mark>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.marked: list[str] = []
        self._in_mark = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_mark = tag == "mark"

    def handle_endtag(self, tag: str) -> None:
        self._in_mark = False

    def handle_data(self, data: str) -> None:
        if self._in_mark:
            self.marked.append(data)


def test_page_has_every_part() -> None:
    html = report_html(full_data())
    for part in ("Loss", "Learning rate", "Gradient norm", "Plan against seen", "Sources", "What the model reads", "Checkpoints"):
        assert part in html
    for value in ("longer than a row", "0.900", "from 3.200", "2.13.0", "metadata: {name: demo}", "1.0 GiB"):
        assert value in html


def test_an_evaluation_stands_with_its_errors_shots_and_documents() -> None:
    html = report_html(full_data())
    for value in ("Benchmarks", "0.3000 ±0.0460", "0.3300 ±0.0470", "100 of 1,172", "+0.0100 to +0.0500", "1 member of a group", "unknown"):
        assert value in html
    assert "won 30 of 40 pairs against its base, each shown in both orders" in html
    assert "(10 whose winner changed with the order): a win rate of 0.750, 95 % interval 0.600 to 0.860. 1 more had no readable" in html
    assert "an empty answer" in html
    assert "95 %: 60% to 86%, 40 pairs" in html


def test_a_report_without_an_evaluation_has_no_part_of_it() -> None:
    html = report_html(ReportData(run=training_run(), job_text="", measurements=[]))
    for part in ("Benchmarks", "Judged", "Base beside tuned", "To be known"):
        assert part not in html


def test_page_loads_nothing_and_runs_nothing() -> None:
    page = Page(report_html(full_data(HOSTILE)))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "link", "iframe", "object", "embed", "base", "form"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "href", "srcset", "action", "xlink:href")]
    assert "url(" not in report_html(full_data())
    assert "@import" not in report_html(full_data())


def test_hostile_text_is_shown_as_it_is() -> None:
    page = Page(report_html(full_data(HOSTILE)))
    assert HOSTILE in page.marked


def test_supervised_text_is_highlighted_and_nothing_else() -> None:
    marked = Page(report_html(full_data())).marked
    assert marked == ["highlighted", "Use `reversed(items)`.\nTip: a slice copies.<|end|>", "plain"]


def test_control_characters_and_surrogates_do_not_break_the_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    sample = Sample(origin="row 1", pieces=[Piece(text="a\x00b\x1bc\ud800d", supervised=True)])
    write_report(ReportData(run=training_run(), job_text="", measurements=[], samples=[sample]), path)
    text = path.read_text(encoding="utf-8")
    assert "a\u2400b\u241bc\ufffdd" in text
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_no_text_of_others_is_hidden_or_turned_around() -> None:
    """Names of models and tasks, too: U+202E would show the rest of a line from right to left."""
    html = report_html(full_data("a\x00\x1b[31m\u202eb"))
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert "a\u2400\u241b[31m\ufffdb at aaaaaaaaaaaa" in html


def test_charts_are_well_formed_xml() -> None:
    for svg in re.findall(r"<svg.*?</svg>", report_html(full_data(HOSTILE)), flags=re.DOTALL):
        ElementTree.fromstring(svg)


def test_report_of_a_run_that_measured_nothing_says_so() -> None:
    html = report_html(ReportData(run=training_run(), job_text="", measurements=[], outcome="failed"))
    assert "No step was measured yet." in html
    assert "Loss by step: nothing was measured." in html


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, 1e308])
def test_odd_losses_still_make_a_report(loss: float) -> None:
    events: list[Measurement] = [step_done(1, loss=loss), evaluation_done(step=1, epoch=1.0, loss=loss)]
    assert "</html>" in report_html(ReportData(run=training_run(), job_text="", measurements=events))


def test_perplexity_that_no_number_holds_shows_its_note() -> None:
    events: list[Measurement] = [evaluation_done(step=0, epoch=0.0, loss=800.0)]
    assert "perplexity exp(800) is too large for a number" in report_html(ReportData(run=training_run(), job_text="", measurements=events))


def test_plan_against_seen() -> None:
    data = ReportData(run=training_run(memory=Memory(terms=(), total_bytes=6 * 2**30)), job_text="", measurements=measurements())
    rows = {row.what: row for row in plan_against_seen(data)}
    assert (rows["optimizer steps"].planned, rows["optimizer steps"].seen) == ("28", "28")
    assert rows["tokens"].share == pytest.approx(28_000 / 28_000)
    assert rows["memory of a worker"].share == pytest.approx(0.5)
    assert rows["time in steps"].seen == "4 min 40 s"
    assert (rows["checkpoint"].planned, rows["checkpoint"].seen) == ("unknown", "not measured")


def test_a_plan_that_is_a_range_is_compared_with_its_slow_end() -> None:
    """Of a GPU, torch counts tensors: what the runtime and the allocator hold besides isn't in what was seen."""
    terms = [MemoryTerm(name=name, bytes=size, formula="", phase="always", basis=basis) for name, size, basis in MEMORY_OF_A_GPU]
    timing = Timing(terms=(), seconds_per_step=12.5, best_seconds_per_step=8.0, best_seconds=224.0, mfu=0.3, best_mfu=0.45)
    run = training_run(memory=Memory(terms=tuple(terms), total_bytes=8 * 2**30))
    changes = {"device": "gpu", "timing": timing, "seconds_per_step": 12.5, "seconds": 350.0, "precision": "bf16"}
    run = run.model_copy(update={"plan": run.plan.model_copy(update=changes)})
    data = ReportData(run=run, job_text="", measurements=measurements())
    rows = {row.what: row for row in plan_against_seen(data)}
    assert (rows["time a step"].planned, rows["time a step"].seen, rows["time a step"].share) == ("8.0 s to 12.5 s", "10.0 s", 0.8)
    assert rows["time in steps"].planned == "3 min 44 s to 5 min 50 s"
    assert rows["memory of a worker"].share == pytest.approx(0.5)
    assert "finetune plan --calibrate" in report_html(data)


MEMORY_OF_A_GPU: list[tuple[str, int, Literal["counted", "assumed"]]] = [
    ("weights", 6 * 2**30, "counted"),
    ("runtime", 2 * 2**30, "assumed"),
]


def test_a_run_that_was_stopped_early_says_where_why_and_what_was_best() -> None:
    early = StoppedEarly(step=23, total_steps=28, loss=1.2, best_step=12, best_loss=0.875, message="stopped early at step 23 of 28: <why>")
    data = ReportData(run=training_run(), job_text="", measurements=[*(step_done(step) for step in range(1, 21)), early])
    rows = {row.what: row for row in plan_against_seen(data)}
    assert (rows["optimizer steps"].planned, rows["optimizer steps"].seen) == ("28", "23")  # 23 is none of the logged ones
    assert rows["time a step"].seen == "10.0 s"
    evaluated = replace(data, measurements=[evaluation_done(step=0, epoch=0.0, loss=3.0), *data.measurements])
    page = report_html(evaluated)
    assert "<b>23</b><span>of 28, stopped early</span>" in page
    assert '<span class="label">best evaluation loss</span><b>0.875</b><span>after step 12</span>' in page
    assert "Training stopped early at step 23 of 28: &lt;why&gt;." in page


def test_steps_that_were_not_logged_count_with_the_one_that_was() -> None:
    later = replace(step_done(20), steps=19, seconds=170.0, tokens=17_000, wall_seconds=190.0)
    events: list[Measurement] = [replace(step_done(1), wall_seconds=10.0), later]
    data = ReportData(run=training_run(), job_text="", measurements=events)
    rows = {row.what: row.seen for row in plan_against_seen(data)}
    assert (rows["time in steps"], rows["time a step"], rows["tokens"]) == ("3 min 00 s", "9.0 s", "18 k")
    page = report_html(data)
    assert "<b>3 min 00 s</b><span>90% of 3 min 20 s: 90 tokens/s in all</span>" in page
    assert "slowest rank" not in page


def test_the_slowest_rank_is_named() -> None:
    events: list[Measurement] = [replace(step_done(1), spread=1.42, slowest="rank 3 on w1")]
    page = report_html(ReportData(run=training_run(), job_text="", measurements=events))
    assert "<b>1.42 x</b><span>the median&#39;s; rank 3 on w1</span>" in page


def test_report_data_reads_the_run_folder(tmp_path: Path) -> None:
    run = training_run()
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for event in measurements():
        metrics.record(event)
    metrics.close()
    (tmp_path / "job.yaml").write_text("kind: FineTuneJob\n")
    prepared = tmp_path / "prepared" / run.data.fingerprint
    prepared.mkdir(parents=True)
    source = '{"name": "a", "dialogues": 2, "tokens": 9, "supervised_tokens": 3, "dropped": {"empty": 1}, "places": {"empty": ["a row 3"]}}'
    sample = '{"origin": "a, segment 1", "pieces": [{"text": "Hi", "supervised": true}]}'
    (prepared / "meta.json").write_text(f'{{"statistics": {{"sources": [{source}], "lengths": [[0, 8, 2]], "samples": [{sample}]}}}}')
    data = report_data(tmp_path, run=run)
    assert len(data.steps) == 28
    assert data.job_text == "kind: FineTuneJob\n"
    assert data.statistics.sources[0].dropped == {"empty": 1}
    assert data.statistics.sources[0].places == {"empty": ["a row 3"]}
    assert data.statistics.lengths == [(0.0, 8.0, 2)]
    assert data.samples == [Sample(origin="a, segment 1", pieces=[Piece(text="Hi", supervised=True)])]


def test_report_data_of_an_empty_folder(tmp_path: Path) -> None:
    data = report_data(tmp_path, run=training_run())
    assert (data.measurements, data.statistics, data.job_text) == ([], statistics_from_meta({}), "")


def test_thinned_keeps_ends_and_extremes() -> None:
    points = [(float(x), float(x % 7)) for x in range(5000)] + [(5000.0, 99.0)]
    kept = charts.thinned(points)
    assert len(kept) <= 510
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert {y for _, y in kept} >= {0.0, 6.0, 99.0}


def test_smoothed_keeps_a_straight_line() -> None:
    line = [(float(x), 2.0 * x) for x in range(20)]
    assert charts.smoothed(line, window=5) == line


def test_line_chart_leaves_out_what_is_not_finite() -> None:
    svg = charts.line_chart([charts.Series(label="a", points=[(0, 1.0), (1, math.nan), (2, 3.0)])], title="t")
    assert "nan" not in svg
    assert len(re.search(r'polyline[^>]*points="([^"]*)"', svg)[1].split()) == 2  # type: ignore[index]


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0], [-3.0, -3.0], [1e-12, 2e-12], [-1e9, 1e9]])
def test_line_chart_of_any_range(values: list[float]) -> None:
    svg = charts.line_chart([charts.Series(label="a", points=list(enumerate(values)))], title="t")
    ElementTree.fromstring(svg)


def test_evaluation_without_perplexity_is_an_event_like_any_other() -> None:
    event = EvaluationDone(step=3, epoch=1.0, loss=2.0, perplexity=None, note="not asked for")
    assert "not asked for" in report_html(ReportData(run=training_run(), job_text="", measurements=[event]))
