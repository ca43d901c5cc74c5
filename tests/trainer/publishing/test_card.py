"""The card: valid for the Hub, true to the run, silent about where it ran."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from tests.exported_models import TINY, training_run

from finetune_api.finetunejob import ControlTokens, FineTuneJob, TemplateSpec
from finetune_api.training_run import run_identity
from finetune_trainer.publishing.card import Licence, base_licence, card_texts, cell, is_hub_id, model_card, public_job, thinned
from finetune_trainer.reporting.events import StepDone, evaluation_done
from finetune_trainer.reporting.report import DataStatistics, ReportData, SourceStatistics

SPEC: dict[str, Any] = {
    "model": {"name": "bigcode/starcoderbase", "tokenSecret": {"name": "hub-secret"}},
    "dataset": {
        "sources": [
            {"path": "HuggingFaceH4/oasst1_en", "weight": 0.5, "tokenSecret": {"name": "data-secret"}},
            {"path": "/home/ann/private|notes.jsonl"},
            {"path": "s3://bucket-of-ann/dialogues.jsonl", "credentialsSecret": {"name": "s3-secret"}},
        ]
    },
    "workers": {"env": [{"name": "API_KEY", "value": "env-secret"}], "nodeSelector": {"host": "node-of-ann"}},
    "checkpoints": {
        "storage": "s3://checkpoints-of-ann/x",
        "endpoint": "http://minio-of-ann:9000",
        "credentialsSecret": {"name": "s3-secret"},
    },
    "publish": {"hub": {"repository": "org/starchat", "tokenSecret": {"name": "write-secret"}}},
}

NAMES = {"./private|notes.jsonl": "/home/ann/private|notes.jsonl"}  # as published -> as given


def step(number: int, loss: float = 1.5) -> StepDone:
    return StepDone(
        step=number,
        total_steps=12,
        epoch=number / 4,
        loss=loss,
        learning_rate=2e-5,
        grad_norm=1.0,
        supervised_tokens=900,
        tokens=2000,
        tokens_per_second=500.0,
        memory_bytes=1,
        seconds=4.0,
    )


def report(measurements: list[Any] | None = None, **spec: Any) -> ReportData:
    run = training_run(TINY, **{**SPEC, **spec})
    statistics = DataStatistics(
        sources=[
            SourceStatistics(name="HuggingFaceH4/oasst1_en", dialogues=160, tokens=9000, supervised_tokens=4000, dropped={"too long": 3}),
            SourceStatistics(name="/home/ann/private|notes.jsonl", dialogues=1, tokens=9, supervised_tokens=4, dropped={"invalid": 1}),
        ]
    )
    measured = [evaluation_done(step=0, epoch=0.0, loss=3.0), *map(step, range(1, 13)), evaluation_done(step=12, epoch=3.0, loss=1.25)]
    return ReportData(run=run, job_text="", measurements=measured if measurements is None else measurements, statistics=statistics)


def test_the_hubs_own_reader_takes_the_front_matter() -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(model_card(report(), step=12, licence=Licence(id="bigcode-openrail-m")))
    assert card.data.license == "bigcode-openrail-m"
    assert card.data.base_model == "bigcode/starcoderbase"
    assert card.data.datasets == ["HuggingFaceH4/oasst1_en"]
    assert card.data.pipeline_tag == "text-generation"


def test_every_section_and_number_of_the_recipe_is_there() -> None:
    text = model_card(report(), step=12, licence=Licence(id="bigcode-openrail-m"), hardware="2 x EPYC")
    for expected in (
        "## Base model", "## Data", "## Template", "## Training", "## Metrics", "## Hardware and time", "## Intended use",
        "## Biases and limitations", "## Licence", "## Citation", "## Reproduce it",
        "| train | 160 | 9,000 | 4,000 | 28 |", "3 of HuggingFaceH4/oasst1_en (too long)", "`blog` (system, assistant, user, end)",
        "| 12 | 3.00 | 1.2500 | 3.49 |", "| dropout | 0 |", "| hardware | 2 x EPYC |", "| workers | 2 on 1 machine |",
        "| CPU hours | 0.03 (training steps only) |",
        "use restrictions travel", "begins with white space", "step 12 of 12",
    ):  # fmt: skip
        assert expected in text


def test_other_programs_are_told_what_they_do_not_read_by_themselves() -> None:
    text = model_card(report(generation={"maxNewTokens": 321}), step=12)
    assert "model.generate(**inputs, max_new_tokens=321)" in text
    assert "321 tokens were meant: send\n  `max_tokens` with a request" in text
    assert "`end_token=[...]` of `generate_batch`" in text
    assert "`finetune export RUN --format gguf`" in text


def test_nothing_tells_of_secrets_or_of_where_it_ran() -> None:
    texts = card_texts(report(), step=12)
    for text in texts.values():
        for private in ("secret", "of-ann", "minio", "API_KEY"):
            assert private not in text.replace("s3://bucket-of-ann/dialogues.jsonl", "").replace("Secrets", "")


def test_only_the_last_part_of_a_path_is_shown() -> None:
    texts = card_texts(report(model={"name": "/home/ann/models/tiny", "initialization": "random"}), step=12)
    for text in texts.values():
        assert "/home/ann" not in text
        assert "name: ./tiny\n" in text
        assert "path: ./private|notes.jsonl\n" in text
    table = texts["README.md"].split("## Reproduce it")[0]
    assert r"1 of private\|notes.jsonl (invalid)" in table
    assert "bucket-of-ann" not in table


def test_time_counts_the_steps_that_were_not_logged() -> None:
    """With logEverySteps 4, three of twelve steps are in the metrics: the card says the same time as when all are."""
    every, some = (model_card(report([step(number) for number in numbers]), step=12) for numbers in (range(1, 13), (4, 8, 12)))
    for expected in ("| training time | 48.0 s |", "| CPU hours | 0.03 (training steps only) |", "| tokens per second | 500 |"):
        assert expected in every
        assert expected in some


def test_the_published_job_is_a_job_that_trains_the_same() -> None:
    data = report()
    job = FineTuneJob.model_validate(yaml.safe_load(public_job(data.run)))
    assert job.spec.model.revision == data.run.model_revision
    moving = job.spec.model.model_copy(update={"revision": "main"})
    dataset = job.spec.dataset.model_copy(
        update={"sources": [source.model_copy(update={"path": NAMES.get(source.path, source.path)}) for source in job.spec.dataset.sources]}
    )
    as_given = job.model_copy(update={"spec": job.spec.model_copy(update={"model": moving, "dataset": dataset})})
    assert run_identity(as_given) == data.run.identity
    assert job.spec.workers.env == []
    assert job.spec.checkpoints.storage is None


def test_what_is_not_known_is_shown_as_unknown() -> None:
    text = model_card(report([]), step=3)
    assert "Evaluation loss: unknown" in text
    assert "Training loss: unknown" in text
    assert "| CPU hours | unknown (training steps only) |" in text
    assert "is unknown to this card" in text
    assert text.startswith("---\nlicense: unknown\n")


@pytest.mark.parametrize("field", ["name", "masking", "token_order"])
def test_every_template_has_words(field: str) -> None:
    """Whatever a job may say of it; a model is trained by the time that the card is written."""
    for value in get_args(TemplateSpec.model_fields[field].annotation):
        more = {"custom": {"tokens": ControlTokens()}, "jinja": {"jinja": "x"}}.get(value, {})
        run = training_run(TINY, **SPEC)
        spec = run.job.spec.template.model_copy(update={field: value, **more})
        job = run.job.model_copy(update={"spec": run.job.spec.model_copy(update={"template": spec})})
        data = replace(report(), run=run.model_copy(update={"job": job}))
        assert "\n- learnt: " in model_card(data, step=12), value


def test_a_model_without_a_longest_text() -> None:
    run = training_run(TINY, **SPEC)
    data = replace(report(), run=run.model_copy(update={"model_shape": run.model_shape.model_copy(update={"positions": None})}))
    assert "- It was trained on at most " in model_card(data, step=12)


def test_a_perplexity_that_no_number_holds_is_explained() -> None:
    text = model_card(report([evaluation_done(step=0, epoch=0.0, loss=1000.0)]), step=3)
    assert "unknown: perplexity exp(1000) is too large for a number" in text


def test_measurements_after_the_exported_step_are_left_out() -> None:
    text = model_card(report(), step=5)
    assert "| 5 | 1.25 |" in text
    assert "1.2500" not in text


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        (
            "---\nlicense: other\nlicense_name: rail\nlicense_link: https://x/y\n---\n# X",
            Licence(id="other", name="rail", link="https://x/y"),
        ),
        ("# No matter", Licence()),
        ("---\nlicense: [a\n---\n", Licence()),
        ("---\n- a\n---\n", Licence()),
        (None, Licence()),
    ],
)
def test_the_licence_of_the_base(readme: str | None, expected: Licence, tmp_path: Path) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    assert base_licence(tmp_path) == expected


def test_the_curve_keeps_its_ends() -> None:
    steps = [step(number) for number in range(1, 101)]
    assert [one.step for one in thinned(steps, 3)] == [1, 50 + math.ceil(0.5), 100]
    assert thinned(steps[:2], 3) == steps[:2]


def test_hub_ids_and_paths_are_told_apart() -> None:
    assert [is_hub_id(name) for name in ("org/name", "./a/b", "/a/b", "s3://a/b", "name", "../a")] == [
        True,
        False,
        False,
        False,
        False,
        False,
    ]
    assert cell("a|b\n<img>") == r"a\|b &lt;img>"
