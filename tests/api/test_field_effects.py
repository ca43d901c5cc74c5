"""finetune_api/field_effects.py and the EFFECTS of each section: a field that can't have an effect is refused or told."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from tests.api.idle_fields import IDLE_CASES
from tests.api.jobs import job, mapping

from finetune_api.checks import CONTRADICTIONS
from finetune_api.errors import InvalidSpec
from finetune_api.field_effects import ALWAYS, NOTES, idle_notes
from finetune_api.fields import field_kind, keys, kind
from finetune_api.finetunejob import FineTuneJobSpec, PodSettings, Spec
from finetune_api.finetunejob.effects import yaml_path
from finetune_api.jobfile import parse_job
from finetune_api.plan import plan


def leaves(model: type[BaseModel], path: str = "spec") -> Iterator[tuple[type[BaseModel], str, str]]:
    """Every leaf below a model: the object that has it, its key and its path."""
    for key in keys(model):
        found = field_kind(model, key)
        assert found is not None
        inner = (kind(found.item) if found.item is not None else found).model
        if inner is None:
            yield model, key, f"{path}.{key}"
        else:
            yield from leaves(inner, f"{path}.{key}" + ("[]" if found.is_list else ""))


def conditional() -> set[str]:
    """Paths of the fields, or of objects of fields, that act under a condition, wherever it is written."""
    below = {
        "BaseModelSpec": "spec.model",
        "ModelShape": "spec.model.shape",
        "DataSource": "spec.dataset.sources[]",
        "Dataset": "spec.dataset",
    }
    below |= {"Training": "spec.training", "Optimizer": "spec.training.optimizer"}
    below |= {"TemplateSpec": "spec.template", "FineTuneJobSpec": "spec", "Evaluation": "spec.evaluation", "Training": "spec.training"}
    effects = {f"{below[model.__name__]}.{yaml_path(effect.field)}" for model in IDLE_CASES for effect in model.EFFECTS}
    return effects | {rule.field for rule in CONTRADICTIONS} | {f"spec.{yaml_path(note.field)}" for note in NOTES}


def always(model: type[BaseModel]) -> set[str]:
    parents = [parent.__name__ for parent in model.__mro__ if issubclass(parent, Spec)]
    return {key for name in parents for key in ALWAYS.get(name, "").split()}


@pytest.mark.parametrize("leaf", list(leaves(FineTuneJobSpec)), ids=lambda leaf: leaf[2])
def test_each_field_says_when_it_has_an_effect(leaf):
    """A new field needs an entry: in ALWAYS, an EFFECTS row of its object, a row of CONTRADICTIONS or one of NOTES."""
    model, key, path = leaf
    held = any(path == known or path.startswith((f"{known}.", f"{known}[].")) for known in conditional())
    assert held or key in always(model), f"{path}: say when it has an effect (finetune_api/field_effects.py)"


def test_the_table_names_no_field_that_is_not_there():
    known = {(model.__name__, key) for model, key, _ in leaves(FineTuneJobSpec)}
    known |= {("PodSettings", key) for key in keys(PodSettings)}
    assert {(name, key) for name, text in ALWAYS.items() for key in text.split()} <= known
    paths = {path for _, _, path in leaves(FineTuneJobSpec)}
    assert {known for known in conditional() if not any(path == known or path.startswith(f"{known}.") for path in paths)} == set()


CASES = [(field, spec) for cases in IDLE_CASES.values() for field, spec in cases]


@pytest.mark.parametrize(("field", "spec"), CASES, ids=[f"{field} {spec}"[:90] for field, spec in CASES])
def test_a_field_that_can_not_act_is_refused_by_name(field, spec):
    with pytest.raises(InvalidSpec) as caught:
        parse_job(mapping(**spec))
    (problem,) = caught.value.problems
    assert problem.field.endswith(f".{yaml_path(field)}")
    assert problem.remedy.startswith(("remove it", "set ", "use "))


def test_each_condition_has_a_case():
    assert {(model, effect.field) for model in IDLE_CASES for effect in model.EFFECTS} == {
        (model, field) for model, cases in IDLE_CASES.items() for field, _ in cases
    }


@pytest.mark.parametrize(
    "spec",
    [
        {"model": {"name": "org/m", "revision": "v2", "tokenSecret": {"name": "s"}, "cache": {"claimName": "c"}}},
        {"model": {"name": "s3://bucket/m", "cache": {"claimName": "c"}}},
        {"model": {"name": "./m", "revision": "main"}},
        {"dataset": {"sources": [{"path": "s3://bucket/d", "credentialsSecret": {"name": "s"}}]}},
        {"dataset": {"sources": [{"path": "org/d", "config": "en", "revision": "v2", "tokenSecret": {"name": "s"}}]}},
        {"dataset": {"sources": [{"path": "org/d", "columns": {"messages": "m", "prompt": "p"}, "filter": {"topAnswers": 1}}]}},
        {
            "dataset": {
                "sources": [{"path": "org/d", "format": "prompt-completion", "columns": {"context": "c", "system": "s", "tree": "t"}}]
            }
        },
        {"dataset": {"sources": [{"path": "a", "format": "messages"}, {"path": "b", "format": "oasst"}], "repeatedMessages": "once"}},
        {"dataset": {"repeatedMessages": "once"}},
        {"dataset": {"evaluation": {"fraction": 0.1}}, "evaluation": {"everyEpochs": 2, "microBatchSize": 2}},
        {"evaluation": {"everyEpochs": 1}},
        {"dataset": {"evaluation": {"fraction": 0.1}}, "evaluation": {"everyEpochs": 1, "everySteps": 100, "earlyStopping": {}}},
        {"evaluation": {"tasks": ["arc_challenge", "mmlu"], "numFewshot": 0, "limit": 10, "taskData": "/data", "batchSize": 2}},
        {"evaluation": {"judge": {"model": "m"}, "batchSize": 2, "pod": {"gpus": 1}}, "publish": {"gate": {"judgeWinRate": {"min": 1}}}},
        {"evaluation": {"samples": {}, "pod": {}}},
        {"template": {"tokenOrder": "published", "systemText": ""}},
        {"template": {"name": "model", "systemText": "Be kind."}},
        {"template": {"name": "alpaca", "systemTurn": False}},
        {"template": {"name": "model", "tokenOrder": "blog", "systemTurn": True}},
        {"training": {"optimizer": {"schedule": "wsd", "decayRatio": 0.2, "minimumLearningRateRatio": 0.1}}},
        {"training": {"optimizer": {"minimumLearningRateRatio": 0.1}}},
        {"training": {"method": "lora", "lora": {"r": 8}}},
    ],
)
def test_what_can_act_is_not_refused(spec):
    assert parse_job(mapping(**spec))


def test_several_of_one_object_are_all_told():
    with pytest.raises(InvalidSpec) as caught:
        parse_job(mapping(template={"name": "model", "tokenOrder": "published", "systemTurn": False}, training={"seed": "x"}))
    assert [problem.field for problem in caught.value.problems] == [
        "spec.template.tokenOrder",
        "spec.template.systemTurn",
        "spec.training.seed",
    ]


@pytest.mark.parametrize(
    ("spec", "note"),
    [
        ({"generation": {"temperature": 0, "topK": 5}}, "spec.generation.topK has no effect: it chooses among candidates"),
        ({"generation": {"temperature": 0, "topP": 0.5}}, "spec.generation.topP has no effect"),
        ({"workers": {"gpusPerNode": 0, "workersPerNode": 2}}, "spec.workers.accelerator has no effect: it is the GPU model"),
        (
            {"workers": {"nodes": 1, "gpusPerNode": 1}, "training": {"sharding": "zero2"}},
            "spec.training.sharding has no effect: it is how a model is divided over workers, and this job has one",
        ),
        (
            {"workers": {"nodes": 1, "gpusPerNode": 1}, "training": {"deepspeed": {"overlap_comm": False}}},
            "spec.training.deepspeed has no effect: it has settings of DeepSpeed, which one worker alone does without",
        ),
        (
            {"publish": {"gate": {"evaluationLoss": {"max": 1}}}, "dataset": {"evaluation": {"fraction": 0.1}}},
            "spec.publish.gate.evaluationLoss has no effect: it is asked by `finetune publish` alone",
        ),
        (
            {"publish": {"gate": {"judgeWinRate": {"min": 0.5}}}, "evaluation": {"judge": {"model": "m"}}},
            "spec.publish.gate.judgeWinRate has no effect: it is asked by `finetune publish` alone",
        ),
    ],
)
def test_what_is_no_unmet_wish_is_told_in_the_plan(spec, note):
    loaded = job(**spec)
    (found,) = idle_notes(loaded.spec)
    assert found.startswith(note)
    assert found in plan(loaded, None, None).notes


def test_nothing_is_told_of_what_acts():
    assert idle_notes(job(generation={"topK": 5, "topP": 0.5}).spec) == []
