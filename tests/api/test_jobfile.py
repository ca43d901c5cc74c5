import json
import os

import pytest
import yaml
from tests.api.jobs import job, lines, mapping

from finetune_api.errors import InvalidSpec
from finetune_api.jobfile import load_job, parse_job


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(mapping()), encoding="utf-8")
    return path


def problems(data):
    with pytest.raises(InvalidSpec) as caught:
        parse_job(data)
    return lines(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"training": {"epoch": 3}}, "spec.training.epoch: there is no such field; did you mean epochs?"),
        ({"trainning": {}}, "spec.trainning: there is no such field; did you mean training?"),
        ({"training": {"max_steps": 3}}, "spec.training.max_steps: there is no such field; did you mean maxSteps?"),
        (
            {"training": {"learningRate": 1e-5}},
            "spec.training.learningRate: there is no such field; did you mean spec.training.optimizer.learningRate?",
        ),
        ({"model": {"cache": {"zzz": 1, "claimName": "c"}}}, "spec.model.cache.zzz: there is no such field; its keys are claimName"),
        ({"training": {"maxSequenceLength": "1k"}}, 'spec.training.maxSequenceLength: "1k" is not a whole number; write 1000 or 1024'),
        (
            {"training": {"maxSequenceLength": "1024 tokens"}},
            '"1024 tokens" is not a whole number; write 1024, without the unit `tokens`',
        ),
        ({"training": {"optimizer": {"learningRate": "2e-5"}}}, '"2e-5" is not a number; remove the quotes: 2e-5'),
        ({"training": {"optimizer": {"warmupRatio": "3%"}}}, '"3%" is not a number; write 0.03'),
        ({"training": {"optimizer": {"learningRate": "fast"}}}, '"fast" is not a number; write a number without quotes'),
        (
            {"ttlSecondsAfterFinished": "24h"},
            'spec.ttlSecondsAfterFinished: "24h" is not a whole number; this field is in seconds: write 86400',
        ),
        ({"checkpoints": {"every": {"seconds": "10m"}}}, '"10m" is not a whole number; this field is in seconds: write 600'),
        ({"training": {"microBatchSize": 1.5}}, "spec.training.microBatchSize: 1.5 is not a whole number; write 1 or 2"),
        ({"training": {"microBatchSize": True}}, "spec.training.microBatchSize: true is not a whole number; write a whole number"),
        ({"training": {"microBatchSize": 0}}, "spec.training.microBatchSize: 0 is less than 1; use at least 1"),
        ({"training": {"dropout": 1.0}}, "spec.training.dropout: 1.0 is not below 1.0; use less than 1.0"),
        ({"dataset": {"evaluation": {"fraction": 0}}}, "spec.dataset.evaluation.fraction: 0 is not above 0.0; use more than 0.0"),
        ({"generation": {"temperature": float("inf")}}, "is not a number; write a finite number"),
        ({"training": {"activationCheckpointing": "yes"}}, '"yes" is not true or false; write true'),
        ({"training": {"tf32": 0}}, "spec.training.tf32: 0 is not true or false; write false"),
        ({"dataset": {"sources": [None]}}, "spec.dataset.sources[0]: has no value; give one"),
        ({"training": {"method": "ful"}}, "spec.training.method: \"ful\" is not one of 'full', 'lora' or 'qlora'; did you mean full?"),
        (
            {"template": {"name": "vicuna"}},
            "spec.template.name: \"vicuna\" is not one of 'auto', 'default', 'no_system', 'alpaca', 'chatml', 'plain', 'model', "
            "'custom' or 'jinja'; use one of them",
        ),
        (
            {"dataset": {"sources": [{"path": "org/data", "format": "share-gpt"}]}},
            "spec.dataset.sources[0].format: \"share-gpt\" is not one of 'auto', 'messages', 'prompt-completion', 'oasst', 'sharegpt', "
            "'alpaca', 'dolly', 'text' or 'tokenized'; did you mean sharegpt?",
        ),
        ({"model": {"name": 7}}, 'spec.model.name: 7 is not text; put it in quotes: "7"'),
        ({"model": {"name": ""}}, "spec.model.name: is empty; add it: Hub id"),
        ({"model": 7}, "spec.model: 7 is not a mapping; put its fields below it, indented"),
        ({"publish": {"hub": "me/model"}}, 'spec.publish.hub: "me/model" is not a mapping; write {repository: me/model}'),
        ({"training": {"epochs": "1_000"}}, 'spec.training.epochs: "1_000" is not a whole number; write 1000'),
        ({"training": {"epochs": "10"}}, 'spec.training.epochs: "10" is not a whole number; remove the quotes: 10'),
        ({"training": {"epochs": "50%"}}, "is not a whole number; write a whole number without the unit `%`"),
        ({"training": {"epochs": 0.0}}, "spec.training.epochs: 0 is less than 1; use at least 1"),
        ({"training": {"optimizer": {"learningRate": 2}}}, "spec.training.optimizer.learningRate: 2 is more than 1.0; use at most 1.0"),
        ({"dataset": {"sources": [{"path": "org/data", "split": True}]}}, 'split: true is not text; put it in quotes: "true"'),
        ({"generation": {"minNewTokens": 300}}, "minNewTokens: 300 is above maxNewTokens, which is 256; use at most 256, or raise"),
        (
            {"publish": {"hub": {"repository": "me/my--model"}}},
            'repository: "me/my--model" holds -- or .., which no name on the Hub may; write',
        ),
        ({"publish": {"hub": {"repository": "me/model.git"}}}, "ends with .git; write me/model"),
        ({"publish": {"hub": {"repository": "me/model."}}}, "has the wrong form; write me/model"),
        ({"publish": {"hub": {"repository": "https://huggingface.co/me/model"}}}, "has the wrong form; write me/model"),
        ({"publish": {"directory": {"path": "s3://bucket/x"}}}, "spec.publish.directory.path: is an address, and a directory is a folder"),
        ({"model": "org/name"}, 'spec.model: "org/name" is not a mapping; write {name: org/name}'),
        ({"dataset": {"sources": []}}, "spec.dataset.sources: is empty; add it: A mixture of sources"),
        (
            {"dataset": {"sources": {"path": "org/data"}}},
            'spec.dataset.sources: {"path": "org/data"} is not a list; begin each item with `- `',
        ),
        ({"training": {"epochs": 1, "maxSteps": 2}}, "spec.training: epochs and maxSteps exclude each other; keep one"),
        (
            {"training": {"optimizer": {"warmupRatio": 0.1, "warmupSteps": 2}}},
            "spec.training.optimizer: warmupRatio and warmupSteps exclude each other; keep one",
        ),
        ({"dataset": {"evaluation": {"split": "test", "fraction": 0.1}}}, "split and fraction exclude each other; keep one"),
        ({"template": {"name": "jinja"}}, "spec.template: jinja and name: jinja go together; set both or neither"),
        ({"template": {"name": "custom"}}, "spec.template: tokens and name: custom go together; set both or neither"),
        ({"publish": {"hub": {"repository": "model"}}}, 'spec.publish.hub.repository: "model" has the wrong form; write it as org/name'),
        ({"checkpoints": {"endpoint": "minio:9000"}}, '"minio:9000" has the wrong form; begin it with http:// or https://'),
        ({"workers": {"resources": {"limits": {"memory": "64GB"}}}}, '"64GB" has the wrong form; write a Kubernetes quantity'),
        (
            {"workers": {"volumes": [{"name": "v", "mountPath": "data", "emptyDir": {}}]}},
            '"data" has the wrong form; write an absolute path',
        ),
        ({"workers": {"volumes": [{"name": "v", "mountPath": "/v", "hostPath": {"path": "/"}}]}}, "hostPath: there is no such field"),
    ],
)
def test_one_wrong_value_has_one_clear_message(spec, message):
    found = problems(mapping(**spec))
    assert any(message in line for line in found), found


def test_all_problems_are_told_at_once():
    data = mapping(training={"epochs": "three", "method": "ful"}, generation={"topP": 2.0}, unknown=1)
    data["metadata"] = {"name": "Not A Name"}
    del data["spec"]["model"]["name"]
    fields = [line.split(":")[0] for line in problems(data)]
    assert fields == [
        "metadata.name",
        "spec.model.name",
        "spec.training.method",
        "spec.training.epochs",
        "spec.generation.topP",
        "spec.unknown",
    ]


def test_status_is_left_aside_and_other_root_keys_are_not():
    assert parse_job({**mapping(), "status": {"stage": "Training"}}) == job()
    assert problems({**mapping(), "extra": 1})[0].startswith("extra: there is no such field")


def test_another_kind_is_refused():
    assert problems({**mapping(), "kind": "RayJob"}) == ["kind: \"RayJob\" is not one of 'FineTuneJob'; use FineTuneJob"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; begin it with `apiVersion: finetune.dev/v1alpha1` and `kind: FineTuneJob`"),
        (b"- a\n", "holds a list, not a mapping; begin it with"),
        (b"just words\n", "holds plain text, not a mapping; begin it with"),
        (b"a: \xff\n", "is not UTF-8 text: byte 4 can't be read; save it as UTF-8"),
        (b"a: [1\n", "is not YAML at line 2, column 1"),
    ],
)
def test_a_file_that_is_no_job(file, content, message):
    file.write_bytes(content)
    with pytest.raises(InvalidSpec) as caught:
        load_job(file)
    assert str(caught.value).startswith(f"{file}: {message}")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InvalidSpec, match="no such file"):
        load_job(tmp_path / "none.yaml")
    with pytest.raises(InvalidSpec, match="can't be read: Is a directory"):
        load_job(tmp_path)


def test_json_is_yaml(tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(mapping()), encoding="utf-8-sig")
    assert load_job(path) == job()


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("training.epochs=1", {"training": {"epochs": 1}}),
        ("spec.training.epochs=1", {"training": {"epochs": 1}}),
        ("training.optimizer.learningRate=1e-3", {"training": {"optimizer": {"learningRate": 1e-3}}}),
        ("training.activationCheckpointing=False", {"training": {"activationCheckpointing": False}}),
        ("training.tf32=true", {"training": {"tf32": True}}),
        ("dataset.sources.0.config=1", {"dataset": {"sources": [{"path": "org/data", "config": "1"}]}}),
        ("dataset.sources[0].config=a=b=c", {"dataset": {"sources": [{"path": "org/data", "config": "a=b=c"}]}}),
        ("dataset.sources.1.path=org/more", {"dataset": {"sources": [{"path": "org/data"}, {"path": "org/more"}]}}),
        (
            "dataset.sources.0.filter.languages=[en, de]",
            {"dataset": {"sources": [{"path": "org/data", "filter": {"languages": ["en", "de"]}}]}},
        ),
        ("dataset.evaluation={fraction: 0.1}", {"dataset": {"evaluation": {"fraction": 0.1}}}),
        ("template.systemText=null", {}),
        ("template.systemText=", {"template": {"systemText": ""}}),
        ("template.systemText=true", {"template": {"systemText": "true"}}),
        ("workers.nodeSelector.kubernetes.io/arch=arm64", {"workers": {"nodeSelector": {"kubernetes.io/arch": "arm64"}}}),
        ("workers.resources.limits.cpu=8", {"workers": {"resources": {"limits": {"cpu": "8"}}}}),
        ("training.deepspeed.sub_group_size=5", {"training": {"deepspeed": {"sub_group_size": 5}}}),
    ],
)
def test_an_override_has_its_fields_type(file, override, changed):
    assert load_job(file, [override]) == job(**changed)


def test_later_overrides_win_and_later_ones_build_on_earlier_ones(file):
    loaded = load_job(file, ["training.epochs=1", "dataset.sources.1.path=org/b", "dataset.sources.1.limit=5", "training.epochs=2"])
    assert loaded.spec.training.epochs == 2
    assert loaded.spec.dataset.sources[1].limit == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=1", "spec.training.epoch: there is no such field; did you mean training.epochs?"),
        ("learningRate=1", "spec.learningRate: there is no such field; did you mean training.optimizer.learningRate?"),
        ("epochs", "--set epochs: has no `=`; write it as path=value, for example training.epochs=1"),
        ("=1", "--set =1: has no `=`"),
        (
            "training.epochs.x=1",
            "spec.training.epochs.x: spec.training.epochs is a plain value and has no fields; use --set training.epochs=VALUE",
        ),
        ("dataset.sources.3.path=x", "spec.dataset.sources.3: `3` is no index into a list of 1; use 0 to 1; 1 appends"),
        ("dataset.sources.path=x", "spec.dataset.sources.path: `path` is no index into a list of 1"),
        ("training.epochs=two", 'spec.training.epochs: "two" is not a whole number; write a whole number without quotes'),
        ("training.epochs=1k", 'spec.training.epochs: "1k" is not a whole number; write 1000'),
        ("workers.nodes=[", "--set workers.nodes: is not YAML"),
    ],
)
def test_a_wrong_override_is_told_like_a_wrong_file(file, override, message):
    with pytest.raises(InvalidSpec) as caught:
        load_job(file, [override])
    assert lines(caught.value)[0].startswith(message)


def test_problems_of_overrides_and_of_the_file_come_together(file):
    file.write_text(yaml.safe_dump(mapping(training={"seed": -1})))
    with pytest.raises(InvalidSpec) as caught:
        load_job(file, ["training.epoch=1", "nothing"])
    assert len(caught.value.problems) == 3


def test_a_wrong_override_and_arithmetic_are_told_together(file):
    with pytest.raises(InvalidSpec) as caught:
        load_job(file, ["training.epoch=1", "training.globalBatchSize=100"])
    assert [problem.field for problem in caught.value.problems] == ["spec.training.epoch", "spec.training.globalBatchSize"]


def test_paths_in_overrides_are_relative_to_the_working_folder(file):
    loaded = load_job(file, ["model.name=./m", "dataset.sources.0.path=../d.jsonl", "publish.directory.path=out", "checkpoints.storage=ck"])
    spec = loaded.spec
    here = os.path.abspath("x").removesuffix("x")
    assert spec.model.name == f"{here}m"
    assert spec.dataset.sources[0].path == os.path.abspath("../d.jsonl")
    assert (spec.publish.directory.path, spec.checkpoints.storage) == (f"{here}out", f"{here}ck")
    assert load_job(file, ["model.name=org/m", "checkpoints.storage=s3://bucket/x"]).spec.model.name == "org/m"


def test_a_key_without_a_value_is_as_good_as_absent():
    """As the API server has it."""
    assert parse_job(mapping(training={"seed": None, "optimizer": None}, publish=None)) == parse_job(mapping())
    assert problems(mapping(model={"name": None})) == [
        "spec.model.name: is missing; add it: Hub id (`org/name`), `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, "
        "or a directory "
        "(`./x`, `../x`, `/x`; relative to the job file)"
    ]
    assert "spec.training.epoch: there is no such field" in problems(mapping(training={"epoch": None}))[0]


def test_a_whole_number_may_be_written_with_a_point():
    job = parse_job(mapping(training={"microBatchSize": 2.0, "maxSequenceLength": 1e3}))
    assert (job.spec.training.micro_batch_size, job.spec.training.max_sequence_length) == (2, 1000)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("1234e56", '1234e56 is not text; put it in quotes: "1234e56"'),
        ("0123", '0123 is not text; put it in quotes: "0123"'),
        ("1e3", '1e3 is not text; put it in quotes: "1e3"'),
        ("0x1F", '0x1F is not text; put it in quotes: "0x1F"'),
        ("1.10", '1.10 is not text; put it in quotes: "1.10"'),
        ("True", 'True is not text; put it in quotes: "True"'),
        (".inf", '.inf is not text; put it in quotes: ".inf"'),
    ],
)
@pytest.mark.parametrize("field", ["model.revision", "dataset.sources.0.split"])
def test_a_value_that_yaml_takes_for_a_number_is_told_as_it_was_written(file, written, told, field):
    """The remedy is the text of the file: a commit such as 1234e56 is a number to YAML, 1.234e+59."""
    for text in (written, f'"{written}"'):
        where = {"model.revision": f"{{name: org/model, revision: {text}}}", "dataset.sources.0.split": "{name: org/model}"}[field]
        source = f"{{path: org/data, split: {text}}}" if "split" in field else "{path: org/data}"
        file.write_text(f"metadata: {{name: job}}\nspec:\n  model: {where}\n  dataset:\n    sources:\n    - {source}\n")
        if text == written:
            with pytest.raises(InvalidSpec) as caught:
                load_job(file)
            assert told in str(caught.value)
            assert told.rsplit("; put it in quotes: ", 1)[1] == f'"{written}"'
        else:
            assert load_job(file)


@pytest.mark.parametrize("written", ["yes", "no", "on", "off", "12:30:00", "2026-01-01", "1_000", "y", "7b", "1e", "0o9", "=", "1.2.3"])
def test_what_yaml_1_2_takes_for_text_is_text(file, written):
    file.write_text(
        f"metadata: {{name: job}}\nspec: {{model: {{name: org/model, revision: {written}}}, dataset: {{sources: [{{path: org/data}}]}}}}\n"
    )
    assert load_job(file).spec.model.revision == written


def test_an_override_in_place_of_a_wrong_value_is_told_as_itself(file):
    file.write_text("metadata: {name: job}\nspec: {model: {name: org/m}, dataset: {sources: [{path: org/d}]}, training: {epochs: 1e400}}\n")
    with pytest.raises(InvalidSpec) as caught:
        load_job(file, ["training.epochs=two"])
    assert lines(caught.value) == ['spec.training.epochs: "two" is not a whole number; write a whole number without quotes']
