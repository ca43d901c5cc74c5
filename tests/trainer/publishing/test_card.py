"""The card: valid for the Hub, true to the run, silent about where it ran."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from markdown_it import MarkdownIt
from tests.exported_models import TINY, training_run

from finetune_api.evaluation_summary import EvaluationSummary, JudgeSummary, SampleSummary, TaskSummary
from finetune_api.finetunejob import ControlTokens, FineTuneJob, TemplateSpec
from finetune_api.training_run import Vocabulary, run_identity
from finetune_trainer.data.cards import HubCard, hub_card
from finetune_trainer.publishing.card import card_texts, model_card, public_job, read_card, thinned
from finetune_trainer.publishing.markdown import cell
from finetune_trainer.publishing.public_names import is_hub_id
from finetune_trainer.reporting.events import StepDone, StoppedEarly, evaluation_done
from finetune_trainer.reporting.report import DataStatistics, ReportData, SourceStatistics
from finetune_trainer.templates.registry import add_control_tokens, template_from_json, template_from_spec
from finetune_trainer.templates.tokenizer import read_tokenizer
from finetune_trainer.templates.turns import Template

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

CITATION = "@misc{oasst,\n  title = {{OpenAssistant}},\n}"
RAIL = HubCard(licences=("bigcode-openrail-m",))

NAMES = {"./private|notes.jsonl": "/home/ann/private|notes.jsonl"}  # as published -> as given


def step(number: int, loss: float = 1.5, steps: int = 1) -> StepDone:
    return StepDone(
        step=number,
        total_steps=12,
        epoch=number / 4,
        loss=loss,
        learning_rate=2e-5,
        grad_norm=1.0,
        supervised_tokens=900 * steps,
        tokens=2000 * steps,
        tokens_per_second=500.0,
        memory_bytes=1,
        seconds=4.0 * steps,
        steps=steps,
    )


def report(measurements: list[Any] | None = None, **spec: Any) -> ReportData:
    run = training_run(TINY, **{**SPEC, **spec})
    statistics = DataStatistics(
        sources=[
            SourceStatistics(
                name="HuggingFaceH4/oasst1_en",
                dialogues=160,
                tokens=9000,
                supervised_tokens=4000,
                dropped={"too long": 3},
                card=HubCard(licences=("apache-2.0", "cc-by-4.0"), citation=CITATION).to_json(),
                commit="d" * 40,
            ),
            SourceStatistics(name="/home/ann/private|notes.jsonl", dialogues=1, tokens=9, supervised_tokens=4, dropped={"invalid": 1}),
        ]
    )
    measured = [evaluation_done(step=0, epoch=0.0, loss=3.0), *map(step, range(1, 13)), evaluation_done(step=12, epoch=3.0, loss=1.25)]
    return ReportData(run=run, job_text="", measurements=measured if measurements is None else measurements, statistics=statistics)


def test_the_hubs_own_reader_takes_the_front_matter() -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(model_card(report(), step=12, base=RAIL))
    assert card.data.license == "bigcode-openrail-m"
    assert card.data.base_model == "bigcode/starcoderbase"
    assert card.data.datasets == ["HuggingFaceH4/oasst1_en"]
    assert card.data.pipeline_tag == "text-generation"


def test_an_adapters_card_says_where_its_base_is_looked_for() -> None:
    on_hub = model_card(report(), step=12, base=RAIL, adapter=True)
    assert "at revision `000" in on_hub
    assert ", which PEFT\nfetches." in on_hub
    for name in ("/home/ann/models/base", "s3://bucket-of-ann/models/base"):
        run = report().run
        spec = run.job.spec.model_copy(update={"model": run.job.spec.model.model_copy(update={"name": name})})
        text = model_card(
            replace(report(), run=run.model_copy(update={"job": run.job.model_copy(update={"spec": spec})})), step=12, adapter=True
        )
        assert "PEFT looks for\nthat at `./base`, from where Python runs; one that is elsewhere is written after" in text
        assert "/home/ann" not in text


def test_every_section_and_number_of_the_recipe_is_there() -> None:
    text = model_card(report(), step=12, base=RAIL, template=template_of(report()), hardware="2 x EPYC")
    for expected in (
        "## Base model", "## Data", "## Template", "## Training", "## Metrics", "## Hardware and time", "## Intended use",
        "## Biases and limitations", "## Licence", "## Citation", "## Reproduce it",
        "| train | 160 | 9,000 | 4,000 | 28 |", "3 of HuggingFaceH4/oasst1_en (too long)", 
        "in the order `blog` (system, assistant, user, end)",
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


def test_nothing_tells_of_secrets_or_of_where_it_ran(tmp_path: Path) -> None:
    evaluation = {
        "tasks": ["arc_challenge"],
        "taskData": "/mnt/of-ann/tasks",
        "judge": {
            "model": "gpt-4o",
            "baseUrl": "https://judge-of-ann/v1",
            "apiKeySecret": {"name": "judge-secret"},
            "prompts": "/of-ann/p.jsonl",
        },
        "samples": {"prompts": "/of-ann/s.jsonl"},
        "pod": {"nodeSelector": {"host": "node-of-ann"}},
    }
    texts = texts_of(report(evaluation=evaluation), tmp_path)
    job = FineTuneJob.model_validate(yaml.safe_load(texts["finetunejob.yaml"]))
    assert (job.spec.evaluation.tasks, job.spec.evaluation.task_data) == (["arc_challenge"], "./tasks")
    for text in texts.values():
        for private in ("secret", "of-ann", "minio", "API_KEY"):
            assert private not in text.replace("s3://bucket-of-ann/dialogues.jsonl", "").replace("Secrets", "")


def test_only_the_last_part_of_a_path_is_shown(tmp_path: Path) -> None:
    texts = texts_of(report(model={"name": "/home/ann/models/tiny", "initialization": "random"}), tmp_path)
    for text in texts.values():
        assert "/home/ann" not in text
        assert "name: ./tiny\n" in text
        assert "path: ./private|notes.jsonl\n" in text
    table = texts["README.md"].split("## Reproduce it")[0]
    assert r"1 of private\|notes.jsonl (invalid)" in table
    assert "bucket-of-ann" not in table


def test_time_counts_the_steps_that_were_not_logged() -> None:
    """With logEverySteps 4, three of twelve steps are in the metrics: the card says the same time as when all are."""
    every = model_card(report([step(number) for number in range(1, 13)]), step=12)
    some = model_card(report([step(number, steps=4) for number in (4, 8, 12)]), step=12)
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


def template_of(data: ReportData) -> Template:
    """The template as the exported folder has it."""
    files = read_tokenizer(TINY)
    return add_control_tokens(files.tokenizer, template_from_spec(data.run.job.spec.template, files))


def template_section(data: ReportData, template: Template) -> str:
    return model_card(data, step=12, template=template).split("## Template\n\n")[1].split("\n`dialogue_template.json`")[0]


def test_auto_is_told_as_what_it_became_with_the_ids_of_its_tokens() -> None:
    """TINY has no chat template, so `auto` is `default`, whose four tokens are new."""
    data = report()
    assert template_section(data, template_of(data)) == (
        "- name: `default`, by `auto`: a template of ours, with a short system sentence\n"
        "- control tokens: `<|system|>` = 833, `<|assistant|>` = 834, `<|user|>` = 835, `<|end|>` = 836, new to the tokenizer, "
        "in the order `blog` (system, assistant, user, end)\n"
        "- learnt: the assistant's text and its end token, nothing else\n"
    )


def test_no_order_of_tokens_is_told_where_a_model_has_its_own_template() -> None:
    """What `auto` becomes for a tokenizer with a chat template: the job's tokenOrder then orders nothing."""
    turns = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '</s>' }}{% endfor %}"
    jinja = turns + "{{ '<|assistant|>' if add_generation_prompt }}"
    given = template_of(report(template={"name": "jinja", "jinja": jinja}))
    own = template_from_json(given.to_json().replace('"name": "jinja"', '"name": "model"'))
    section = template_section(report(), own)
    assert "- name: `model`, by `auto`: the chat template of the base model's tokenizer\n" in section
    assert "- control tokens: none of ours" in section
    assert "blog" not in section


def test_tokens_that_the_base_had_are_told_with_its_ids_and_without_an_order() -> None:
    data = report()
    known = replace(data, run=data.run.model_copy(update={"vocabulary": Vocabulary(size=837)}))
    section = template_section(known, template_of(data))
    assert "`<|end|>` = 836; all with the ids that they had in the base model's tokenizer\n" in section
    assert "blog" not in section


def texts_of(data: ReportData, folder: Path) -> dict[str, str]:
    """As `export` writes them, beside a base without a card."""
    (folder / "dialogue_template.json").write_text(template_of(data).to_json())
    return card_texts(data, step=12, base=TINY, exported=folder)


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


def matter(text: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return values


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("---\nlicense: mit\n---\n", {"license": "mit"}),
        ("---\nlicense: [mit, apache-2.0]\n---\n", {"license": ["mit", "apache-2.0"]}),
        (
            "---\nlicense: other\nlicense_name: rail\nlicense_link: https://x/y\n---\n",
            {"license": "other", "license_name": "rail", "license_link": "https://x/y"},
        ),
        (
            "---\nlicense: other\nlicense_name: Our Licence\nlicense_link: TERMS.md\n---\n",
            {
                "license": "other",
                "license_name": "our-licence",
                "license_link": f"https://huggingface.co/bigcode/starcoderbase/blob/{'0' * 40}/TERMS.md",
            },
        ),
        ("---\nlicense: other\nlicense_name: x\nlicense_link: javascript:alert(1)\n---\n", {"license": "other", "license_name": "x"}),
        ("---\nlicense: Apache License 2.0\n---\n", {"license": "other", "license_name": "apache-license-2.0"}),
        ("# No matter", {"license": "unknown"}),
    ],
)
def test_the_licence_of_the_base_in_words_that_the_hub_takes(readme: str, expected: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(readme)
    found = matter(model_card(report(), step=12, base=read_card(tmp_path)))
    assert {key: value for key, value in found.items() if key.startswith("license")} == expected


def test_each_data_set_has_the_licence_of_its_own_card() -> None:
    text = model_card(report(), step=12, base=RAIL)
    row, local, *_ = (line for line in text.splitlines() if line.startswith(("| [HuggingFaceH4", "| `private")))
    assert row.startswith(
        "| [HuggingFaceH4/oasst1_en](https://huggingface.co/datasets/HuggingFaceH4/oasst1_en) | `main` at `dddddddddddd` |"
    )
    assert row.endswith(" | apache-2.0, cc-by-4.0 |")
    assert local.endswith(" | unknown |")
    assert r"unknown to this card: `private|notes.jsonl`, `dialogues.jsonl`." in text


def test_statistics_of_other_sources_give_no_licence() -> None:
    """A run folder whose statistics are of another order or are gone: nothing is taken for what it isn't."""
    data = report()
    turned = replace(data, statistics=DataStatistics(sources=data.statistics.sources[::-1]))
    for other in (turned, replace(data, statistics=DataStatistics())):
        assert "apache-2.0" not in model_card(other, step=12, base=RAIL)


def test_base_and_data_are_cited_as_their_authors_ask_or_by_their_address() -> None:
    cited = model_card(report(), step=12, base=replace(RAIL, citation="@article{starcoder, title={StarCoder}}")).split("## Citation")[1]
    assert "```bibtex\n@article{starcoder, title={StarCoder}}\n```" in cited
    assert f"```bibtex\n{CITATION}\n```" in cited
    assert f"<https://huggingface.co/datasets/HuggingFaceH4/oasst1_en/tree/{'d' * 40}>, to be cited as" in cited
    uncited = model_card(report(), step=12).split("## Citation")[1]
    there = "https://huggingface.co/bigcode/starcoderbase"
    assert f"- Base model: [bigcode/starcoderbase]({there}), <{there}/tree/{'0' * 40}>\n" in uncited
    assert "notes.jsonl" not in uncited.split("## Reproduce it")[0]  # nobody else could find it
    assert uncited.count("@") == 2  # this model's own, and the data set's


def test_the_bias_of_code_models_is_named_where_the_base_says_that_it_is_one() -> None:
    of_code = hub_card("---\ntags: [code]\n---\n")
    text = model_card(report(), step=12, base=of_code)
    assert "insecure habits" in text
    assert "code" in matter(text)["tags"]
    general = model_card(report(), step=12, base=hub_card("---\ntags: [codec, text]\n---\n# code_eval"))
    assert "insecure habits" not in general
    assert "has its prejudices" in general
    assert "code" not in matter(general)["tags"]


def test_the_users_limitations_stand_beside_the_known_ones() -> None:
    spec = {**SPEC["publish"], "card": {"limitations": "- Never asked in *Frisian*.\n"}}
    section = model_card(report(publish=spec), step=12).split("## Biases and limitations")[1].split("\n## ")[0]
    assert section.endswith("\n\n- Never asked in *Frisian*.\n")
    assert "Frisian" not in model_card(report(), step=12)


def test_a_line_for_each_program() -> None:
    text = model_card(report(), step=12)
    for line in ("`finetune chat org/starchat`", "`vllm serve org/starchat`", "`llama-cli -m demo.gguf`", "`llama-server -m demo.gguf`"):
        assert line in text


def task(name: str = "arc_challenge", **more: Any) -> TaskSummary:
    values: dict[str, Any] = {"metric": "acc_norm", "value": 0.33, "standard_error": 0.047, "base": 0.3, "base_standard_error": 0.046}
    return TaskSummary(task=name, shots=25, limit=100, documents=100, documents_there=1172, **(values | more))


SAMPLE = SampleSummary(
    prompt="Write code.", base_greedy="no", tuned_greedy="yes\n```python\nprint()\n```", base_sampled="b", tuned_sampled="t"
)


def evaluated(*tasks: TaskSummary, at: int = 12, **more: Any) -> ReportData:
    summary = EvaluationSummary(digest="e" * 8, step=at, base_model="bigcode/starcoderbase", tasks=tasks, **more)
    return replace(report(), evaluation=summary)


def test_the_evaluation_stands_with_errors_shots_and_documents() -> None:
    judge = JudgeSummary(model="gpt|4o", prompts=40, wins=30, win_rate=0.75, low=0.6, high=0.86, losses=4, ties=2, flips=4, unreadable=1)
    text = model_card(evaluated(task(low=-0.01, high=0.07, verdict="no difference shown"), judge=judge, samples=(SAMPLE,)), step=12)
    assert (
        "| `arc_challenge` | `acc_norm` | 25 | 100 of 1,172 | 0.3000 ±0.0460 | 0.3300 ±0.0470 | -0.0100 to +0.0700 | no difference shown |"
        in text
    )
    assert "The judge `gpt|4o`: this model won 30 of 40 pairs" in text
    assert "a win rate of 0.750, 95 % interval 0.600 to 0.860. 1 more had no readable verdict" in text
    assert "````text\nyes\n```python\nprint()\n```\n````" in text


def test_an_evaluation_of_another_step_is_none_of_this_model() -> None:
    text = model_card(evaluated(task(), at=6), step=12)
    assert "## Evaluation" not in text
    assert "model-index" not in text


def test_the_hubs_own_reader_takes_the_results() -> None:
    from huggingface_hub import ModelCard

    tasks = (
        task(),
        task(metric="acc", value=0.31),
        task("our_task", metric="em", standard_error=None),
        task("mmlu_law", group="mmlu"),
        task("broken", value=None),
    )
    data: Any = ModelCard(model_card(evaluated(*tasks), step=12)).data
    found = {(one.dataset_name, one.metric_type): one for one in data.eval_results}
    assert sorted(found) == [("AI2 Reasoning Challenge", "acc"), ("AI2 Reasoning Challenge", "acc_norm"), ("our_task", "em")]
    arc = found["AI2 Reasoning Challenge", "acc_norm"]
    assert (arc.dataset_type, arc.dataset_config, arc.dataset_split) == ("allenai/ai2_arc", "ARC-Challenge", "test")
    assert (arc.metric_value, arc.metric_args, arc.dataset_args) == (0.33, {"standard_error": 0.047}, {"num_few_shot": 25})
    assert arc.metric_name == "acc_norm, 25-shot, 100 of 1,172 documents"
    assert data.model_name == "demo"


def test_hostile_texts_of_an_evaluation_end_nothing() -> None:
    """Whoever may write to the storage may write anything into a summary."""
    hostile = "`````\n</details><script>alert(1)</script>\n# Heading\n![p](https://x.example/p.png)\x1b[31m\u202e"
    name = "x|`</td> ![p](https://x.example/p.png)"
    summary: dict[str, Any] = {"samples": (SampleSummary(**dict.fromkeys(SampleSummary.model_fields, hostile)),) * 9, "notes": (hostile,)}
    judge = JudgeSummary(model=name, prompts=1, wins=0, win_rate=0, low=0, high=1)
    text = model_card(evaluated(task(name, metric=name), judge=judge, **summary), step=12)
    tokens = MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2])
    inner = [one for token in tokens for one in (token, *(token.children or ()))]
    assert {one.type for one in inner} & {"image", "html_inline"} == set()
    assert {line for one in inner if one.type == "html_block" for line in one.content.splitlines()} == {
        "<details><summary>The same, sampled</summary>",
        "</details>",
    }
    assert all(one.attrs["href"].startswith("https://huggingface.co/") for one in inner if one.type == "link_open")
    assert "Heading" not in [token.content for token in tokens]
    assert len([token for token in tokens if token.type == "fence" and "# Heading" in token.content]) == 4 * 5
    rows = text.split("## Evaluation")[1].split("\n## Hardware")[0].splitlines()
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows if row.startswith("|")] == [9, 9, 9]
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_training_that_ended_early_says_so() -> None:
    early = StoppedEarly(step=12, total_steps=40, loss=1.3, best_step=8, best_loss=1.2, message="stopped early at step 12 of 40: no better")
    data = report()
    for published in (12, 8):  # the last checkpoint, and the best one
        text = model_card(replace(data, measurements=[*data.measurements, early]), step=published)
        assert f"This is step {published} of " in text
        assert "Training stopped early at step 12 of 40: no better." in text


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
