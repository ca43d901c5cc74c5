"""finetune_assistant/drafting/draft.py, fitting.py and job_text.py: what was found as a job that `plan` accepts, with its reasons."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import BaseModelSpec, DataSource, ModelShape
from finetune_api.plan import cluster_plan, plan
from finetune_api.yaml_text import yaml_value
from finetune_assistant.drafting.draft import Draft, Wishes, draft
from finetune_assistant.drafting.found import FoundModel, FoundSource
from finetune_assistant.drafting.job_text import flow, one_line
from finetune_assistant.drafting.translation import translation
from finetune_trainer.machine import ThisMachine

SHAPE = ModelShape(
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
MODEL = FoundModel(spec=BaseModelSpec(name="org/small"), shape=SHAPE, template="model")
LAPTOP = ThisMachine(memory_bytes=16 * 2**30, gpus=0, cpus=4)


def rows(count: int = 600, *lengths: int, path: str = "./rows.jsonl", **found: Any) -> FoundSource:
    tokens = tuple(lengths) or (200,) * count
    value: dict[str, Any] = {"format": "messages", "rows": count, "usable": count, "messages": 2 * count, "trees": count}
    return FoundSource(source=DataSource(path=path), encoded=len(tokens), lengths=tokens, **(value | found))


def drafted(*sources: FoundSource, model: FoundModel = MODEL, machine: ThisMachine = LAPTOP, given: Any = None, **wishes: Any) -> Draft:
    found = translation(given or {}, workers=1, told_of="of this machine")
    return draft(Wishes(name="mine", **wishes), model, sources or (rows(),), machine, found)


def line(found: Draft, begin: str) -> str:
    """The line of the draft that begins so."""
    return next(text.strip() for text in found.text.splitlines() if text.strip().startswith(begin))


def test_a_draft_is_short_and_both_kinds_of_yaml_read_it_as_the_job_that_was_planned():
    found = drafted()
    assert len(found.text.splitlines()) <= 25
    value = yaml_value(found.text, "draft")
    assert value == yaml.safe_load(found.text)
    assert found.job.metadata.name == "mine"
    assert found.job.spec.model.name == "org/small"
    assert found.job.spec.dataset.sources == [DataSource(path="./rows.jsonl")]
    assert found.job.spec.dataset.evaluation is not None
    assert found.job.spec.dataset.evaluation.fraction == 0.1
    assert not {"workers", "checkpoints", "publish"} & found.job.spec.model_fields_set
    assert found.job.spec.training.global_batch_size is None
    assert found.notes == ()


def test_the_row_holds_what_most_dialogues_need():
    found = drafted(rows(100, *[200] * 90, *[700] * 7, *[5000] * 3))
    assert line(found, "maxSequenceLength").startswith("maxSequenceLength: 1024  # tokens of a row: 97.0% of the dialogues fit")
    assert "the longest has 5,000" in found.text


def test_the_row_is_no_longer_than_the_model_takes():
    short = replace(MODEL, shape=SHAPE.model_copy(update={"positions": 500}))
    assert drafted(rows(100, *[900] * 100), model=short).job.spec.training.max_sequence_length == 256
    assert drafted(rows(100, *[900] * 100, divides=True), model=short).job.spec.training.max_sequence_length == 500


def test_the_steps_that_are_told_are_those_of_the_rows():
    found = drafted(rows(600, *[256] * 600))
    assert line(found, "# globalBatchSize").endswith("it comes to about 16 rows a step, which is 114 steps")


@pytest.mark.parametrize(("trees", "fraction"), [(19, None), (20, 0.1), (2_000, 0.05), (20_000, 0.02)])
def test_some_conversations_are_held_out_where_there_are_enough(trees, fraction):
    evaluation = drafted(rows(trees=trees)).job.spec.dataset.evaluation
    assert (evaluation and evaluation.fraction) == fraction


def test_a_split_for_evaluation_is_used_where_all_sources_have_it():
    with_test = rows(has_test=True)
    evaluation = drafted(with_test, with_test).job.spec.dataset.evaluation
    assert evaluation is not None
    assert evaluation.split == "test"
    mixed = drafted(with_test, rows()).job.spec.dataset.evaluation
    assert mixed is not None
    assert mixed.fraction == 0.1


def test_a_few_wrong_rows_are_allowed_and_told_and_many_are_not():
    few = drafted(rows(wrong=3, first_wrong="./rows.jsonl row 7: no\nrole"))
    assert few.job.spec.dataset.max_invalid_rows == 3
    assert line(few, "maxInvalidRows").endswith("the first: ./rows.jsonl row 7: no role")
    many = drafted(rows(wrong=300, first_wrong="row 1: no role"))
    assert many.job.spec.dataset.max_invalid_rows == 0
    assert "300 wrong rows refuse the data: correct them" in line(many, "# maxInvalidRows is absent")
    assert any("300 wrong rows" in note for note in many.notes)


def test_of_data_that_was_not_read_to_its_end_nothing_is_claimed():
    found = drafted(rows(20_000, 200, is_all=False))
    assert "the first 20,000 rows" in line(found, "- {path")
    assert found.job.spec.training.epochs == 1
    assert "of the conversations, never across one" in line(found, "evaluation")


def test_a_base_model_without_a_chat_template_is_told_which_one_it_is_trained_with():
    base = drafted(model=replace(MODEL, template="default"))
    assert "the tokenizer has no chat template, so ours is used" in line(base, "# template is absent")
    assert "chat template of the model's tokenizer" in line(drafted(), "# template is absent")
    broken = drafted(model=replace(MODEL, template="default", template_fault="it raises"))
    assert line(broken, "template: {name: default}").endswith("it raises")


def test_what_the_hub_did_not_tell_is_left_open_and_told():
    away = FoundSource(source=DataSource(path="org/data"), away="org/data: can't reach the Hub")
    found = drafted(away, model=FoundModel(spec=BaseModelSpec(name="org/m"), away="model org/m: can't be fetched"))
    assert found.job.spec.training.max_sequence_length == 1024
    assert found.notes == (
        "the model is not looked at: model org/m: can't be fetched",
        "the data is not looked at: org/data: can't reach the Hub",
    )


def test_the_micro_batch_is_what_this_machine_holds():
    long = rows(100, *[8000] * 100)
    small = ThisMachine(memory_bytes=6 * 2**30, gpus=0, cpus=4)
    micro = drafted(long, machine=small).job.spec.training.micro_batch_size
    assert micro < drafted(long, machine=replace(LAPTOP, memory_bytes=2**40)).job.spec.training.micro_batch_size == 4
    tiny = drafted(long, machine=ThisMachine(memory_bytes=2**28, gpus=0, cpus=1))
    assert any("`finetune run` refuses it" in note for note in tiny.notes)


def test_gpus_among_which_our_batch_does_not_divide_get_one_that_does():
    found = drafted(gpus=3)
    assert found.job.spec.training.global_batch_size is not None
    assert found.job.spec.training.global_batch_size % 3 == 0
    assert found.job.spec.workers.gpus_per_node == 3


def test_a_cluster_takes_the_draft_once_it_is_filled_in():
    local = FoundModel(spec=BaseModelSpec(name="./small"), shape=SHAPE, template="model")
    found = drafted(rows(path="./rows.jsonl"), model=local, cluster=True, hub="me/mine")
    cluster_plan(found.job, SHAPE, None)
    assert "yours: ./rows.jsonl copied there" in line(found, "- {path: s3://your-bucket/rows.jsonl}")
    assert "yours: ./small copied there" in line(found, "model: {name: s3://your-bucket/small}")
    assert found.text.count("yours") == 1 + 4, "the header, then model, data, storage and repository"
    assert len(found.text.splitlines()) <= 25
    large = SHAPE.model_copy(update={"parameters": 15 * 10**9, "layers": 40, "hidden_size": 6144, "intermediate_size": 24576})
    assert drafted(model=replace(MODEL, shape=large), cluster=True).job.spec.workers.gpus_per_node > 1


def test_what_another_trainer_says_stays_as_it_is():
    given = {"num_epochs": 5, "sequence_len": 512, "learning_rate": 3e-4, "val_set_size": 0.2, "micro_batch_size": 2, "output_dir": "out"}
    found = drafted(rows(600, *[900] * 600), given=given)
    spec = found.job.spec
    assert (spec.training.epochs, spec.training.max_sequence_length, spec.training.optimizer.learning_rate) == (5, 512, 3e-4)
    assert spec.dataset.evaluation is not None
    assert spec.dataset.evaluation.fraction == 0.2
    assert spec.publish.directory is not None
    assert line(found, "epochs") == "epochs: 5  # num_epochs"
    assert found.left == {}
    # A batch that is told goes with the workers that it was divided among: by itself it would not divide among 8 GPUs.
    assert spec.training.global_batch_size == 2
    assert spec.workers.world_size == 1


def test_what_a_job_can_not_have_is_left_out_with_the_reason():
    given = {"sequence_len": 100_000, "warmup_steps": 1_000, "max_steps": 10, "hub_private_repo": False, "output_dir": "out"}
    found = drafted(given=given, cluster=True)
    assert set(found.left) == {"sequence_len", "warmup_steps", "hub_private_repo", "output_dir"}
    assert "more than the 8192 positions of the model" in found.left["sequence_len"]
    plan(found.job, SHAPE, None)


def test_a_file_that_holds_nothing_out_is_not_overruled():
    assert drafted(given={"val_set_size": 0}).job.spec.dataset.evaluation is None


def test_a_name_that_no_job_may_have_is_refused():
    with pytest.raises(InvalidSpec, match=r"metadata\.name"):
        draft(Wishes(name="Not A Name"), MODEL, [rows()], LAPTOP)


@pytest.mark.parametrize(
    "value",
    [
        "a, b",
        "yes",
        "1e3",
        "~",
        "#x",
        "a: b",
        "- x",
        "{x}",
        "é",
        "\u2028",
        "\x07",
        "a\nb",
        "",
        "null",
        "s3://bucket/x",
        "org/m",
        "!x",
        "1_000",
        "2026-01-02",
        "./x",
        "../x/y.jsonl",
    ],
)
def test_any_text_is_written_as_text(value):
    text = f"x: {flow({'k': [value]})}\n"
    assert yaml_value(text, "x") == yaml.safe_load(text) == {"x": {"k": [value]}}


def test_a_comment_is_one_line_that_yaml_allows():
    assert one_line("row 7:\n\tbad\x07 \u2028text") == "row 7: bad text"
    assert len(one_line("x" * 1_000)) <= 160


def test_a_machine_s_gpus_get_a_batch_that_divides_among_them_too():
    three = ThisMachine(memory_bytes=2**40, gpus=3, gpu_memory_bytes=80 * 2**30, fast_bf16=True, cpus=24)
    found = drafted(machine=three)
    assert (found.job.spec.training.global_batch_size, found.job.spec.workers.gpus_per_node) == (18, 3)
    assert found.notes == ()
    assert "workers" not in drafted(machine=replace(three, gpus=4)).job.spec.model_fields_set
