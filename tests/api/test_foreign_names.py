"""finetune_api/foreign_names.py: a job in the words of TRL, Transformers, axolotl, DeepSpeed or Kubeflow Trainer names our fields."""

from typing import Any

import pytest
from pydantic.alias_generators import to_camel
from tests.api.jobs import mapping

from finetune_api.errors import InvalidSpec, Problem
from finetune_api.fields import keys, owner, paths
from finetune_api.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_api.foreign_names import TABLE, VALUES, Foreign, entries, plain
from finetune_api.jobfile import load_job, parse_job

NAMES = list(entries(TABLE))
SECTIONS = ("", "model", "dataset", "dataset.sources", "template", "training", "training.optimizer", "training.deepspeed")
SECTIONS += ("workers", "cpuPods", "checkpoints", "evaluation", "generation", "publish")


def told(section: str, key: str, value: Any = 8) -> Problem:
    """What is said of a key in a section."""
    spec: dict[str, Any] = {key: value}
    if section == "dataset.sources":
        spec = {"dataset": {"sources": [{"path": "org/data", key: value}]}}
    else:
        for part in reversed(section.split(".") if section else []):
            spec = {part: spec}
    with pytest.raises(InvalidSpec) as caught:
        parse_job(mapping(**spec))
    return next(problem for problem in caught.value.problems if problem.field.endswith(f".{key}"))


def is_ours(section: str, name: str) -> bool:
    """Whether the name is a field's own there: with `_` for our capital letters it is told as a typing slip, or it is just right."""
    found = owner(("spec", *section.split("."), name) if section else ("spec", name), FineTuneJob)
    assert found is not None
    return plain(name) in map(plain, keys(found[0]))


def check(found: Problem, meaning: Foreign) -> None:
    assert found.message == "there is no such field"
    if meaning.ours is None:
        assert found.remedy == f"{meaning.how}; remove it"
    else:
        # A name that is also a field's own, such as tf32, is told as a field in the wrong place.
        assert f" spec.{meaning.ours}" in found.remedy


@pytest.mark.parametrize(("name", "meaning"), NAMES, ids=[name for name, _ in NAMES])
def test_a_foreign_name_names_our_field_or_says_that_there_is_none(name, meaning):
    section, _, key = name.rpartition(".")
    special = {known.rpartition(".")[0] for known, _ in NAMES if plain(known.rpartition(".")[2]) == plain(key) and "." in known}
    for place in SECTIONS:
        last = place.rsplit(".", 1)[-1] or "spec"
        if (section and last != section) or (not section and last in special) or is_ours(place, key):
            continue
        check(told(place, key), meaning)
        if not is_ours(place, to_camel(key)):
            check(told(place, to_camel(key)), meaning)


def test_every_field_that_the_table_names_exists_and_no_name_is_there_twice():
    known = set(paths(FineTuneJobSpec))
    assert {meaning.ours for _, meaning in NAMES if meaning.ours is not None and f"spec.{meaning.ours}" not in known} == set()
    assert len(NAMES) == len({tuple(map(plain, name.split("."))) for name, _ in NAMES}) > 250
    assert all(meaning.how for _, meaning in NAMES if meaning.ours is None)


@pytest.mark.parametrize(
    ("section", "key", "value", "remedy"),
    [
        (
            "dataset.sources",
            "name",
            "english",
            "here it is spec.dataset.sources[].path: a file, a folder or a Hub data set; the configuration of one, which others call name, "
            "is dataset.sources[].config",
        ),
        (
            "dataset.sources",
            "shards",
            4,
            "here it is spec.dataset.sources[].weight: a share of the rows: 1 / 4 for one of that many shards",
        ),
        (
            "dataset.sources",
            "shards_idx",
            0,
            "rows are drawn by dataset.sources[].weight, a share of them, and not taken by shard; remove it",
        ),
        ("dataset.sources", "completion", "answer", "did you mean spec.dataset.sources[].columns.completion?"),
        ("", "strict", False, "a key that a job doesn't have is always refused; remove it"),
        ("model", "revision_of_model", "main", "here it is spec.model.revision"),
        ("", "eval_steps", 100, "here it is spec.evaluation.everySteps: optimizer steps"),
        (
            "training",
            "metric_for_best_model",
            "loss",
            "here it is spec.publish.checkpoint: best is the one with the lowest evaluation loss",
        ),
        (
            "training",
            "gradient_accumulation_steps",
            16,
            "here it is spec.training.globalBatchSize: rows per optimizer step = training.microBatchSize x 16 accumulation steps x the "
            "number of workers",
        ),
        ("", "train_on_inputs", False, "here it is spec.template.masking: assistant learns the answers only (train_on_inputs: false)"),
        ("checkpoints", "save_steps", 50, "here it is spec.checkpoints.every.steps: write checkpoints: {every: {steps: 50}}; absent,"),
        ("training", "loraAlpha", 16, "here it is spec.training.lora.lora_alpha: 16, with training.method: lora"),
        ("training", "adapter", "lora", "here it is spec.training.method: lora trains adapters, qlora those beside a base in 4 bits"),
        ("workers", "maxNodes", 4, "here it is spec.workers.minNodes: the fewest nodes that a job goes on with; workers.nodes is the most"),
        ("training.deepspeed", "nvme_path", "/nvme", "offloading goes to the host's memory, not to NVMe; remove it"),
        ("training", "early_stopping_patience", 3, "here it is spec.evaluation.earlyStopping.patience: evaluations in a row"),
        ("training", "batchSize", 8, "here it is spec.training.globalBatchSize: rows per optimizer step, over all workers"),
        ("workers", "gpus", 8, "here it is spec.workers.gpusPerNode: one process a GPU"),
        ("training", "epoch", 3, "did you mean epochs?"),
        ("training", "micro_batch_size", 3, "did you mean microBatchSize?"),
        ("", "epochs", 3, "did you mean spec.training.epochs?"),
        ("training.optimizer", "type", "AdamW", "here it is spec.training.optimizer.name"),
        (
            "dataset.sources",
            "type",
            "chat_template",
            "here it is spec.dataset.sources[].format: chat_template and messages are format: messages",
        ),
    ],
)
def test_the_value_is_translated_where_it_is_another_one(section, key, value, remedy):
    assert told(section, key, value).remedy.startswith(remedy)


@pytest.mark.parametrize(("name", "values"), VALUES.items())
def test_values_of_other_trainers_are_known(name, values):
    (path,) = (path for path in paths(FineTuneJobSpec) if path.endswith(f".{name}") and "sources[].format" not in path.replace(name, "", 1))
    for value, remedy in values.items():
        spec: Any = {"path": "org/data", name: value} if "[]" in path else {name: value}
        for part in reversed(path.removeprefix("spec.").split(".")[:-1]):
            spec = {part.removesuffix("[]"): [spec] if part.endswith("[]") else spec}
        with pytest.raises(InvalidSpec) as caught:
            parse_job(mapping(**spec))
        assert caught.value.problems[0].remedy == remedy


def test_an_override_in_foreign_words_is_told_in_the_words_of_overrides(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("metadata: {name: x}\nspec: {model: {name: org/m}, dataset: {sources: [{path: org/d}]}}\n")
    for override, remedy in {
        "training.num_epochs=2": "here it is training.epochs: a whole number",
        "dataset.sources.0.name=x": "here it is dataset.sources.0.path",
        "sequence_len=8": "here it is training.maxSequenceLength",
    }.items():
        with pytest.raises(InvalidSpec) as caught:
            load_job(file, [override])
        assert caught.value.problems[0].remedy.startswith(remedy)
