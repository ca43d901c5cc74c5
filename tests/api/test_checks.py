import pytest
from tests.api.jobs import job

from finetune_api.checks import CONTRADICTIONS, cluster_only_fields, in_spec_order, spec_problems
from finetune_api.errors import Problem
from finetune_api.fields import paths
from finetune_api.finetunejob import FineTuneJobSpec

HUB = {"repository": "org/model"}

CONTRADICTION_CASES = [
    ({"publish": {"hub": {**HUB, "tag": "v1..0"}}}, "spec.publish.hub.tag: git takes no tag with `..` in it"),
    ({"publish": {"hub": {**HUB, "revision": "v1", "tag": "v1"}}}, "spec.publish.hub.tag: is the name of the branch too"),
    ({"model": {"initialization": "random"}}, "spec.model.initialization: random needs a folder with config.json and tokenizer"),
    (
        {"model": {"name": "./m", "initialization": "random"}, "evaluation": {"judge": {"model": "m"}}},
        "spec.evaluation.judge: compares the trained model with its base, which has no weights",
    ),
    (
        {"model": {"name": "./m", "initialization": "random"}, "training": {"method": "lora"}},
        "spec.training.method: lora trains adapters beside the base's weights, and this base has none",
    ),
    (
        {"training": {"method": "qlora"}, "workers": {"gpusPerNode": 2}},
        "spec.training.method: qlora keeps layers in 4 bits, a scale for each 64 weights of a layer, and ZeRO-3",
    ),
    (
        {"training": {"optimizer": {"name": "adamw8bit"}}, "workers": {"gpusPerNode": 2}},
        "spec.training.optimizer.name: adamw8bit keeps moments in 8 bits, a scale for each 256 of a tensor, and DeepSpeed cuts tensors",
    ),
    ({"publish": {"checkpoint": "best"}}, "spec.publish.checkpoint: best needs an evaluation loss, and nothing is held out"),
    (
        {"checkpoints": {"endpoint": "http://s3"}},
        "spec.checkpoints.endpoint: is given, but nothing in this job is at s3://, gs:// or az://",
    ),
    ({"checkpoints": {"region": "eu", "storage": "/data"}}, "spec.checkpoints.region: is given, but nothing in this job is at s3://"),
    (
        {"checkpoints": {"region": "eu", "storage": "gs://bucket/x"}},
        "spec.checkpoints.region: is given, but nothing in this job is at s3://",
    ),
    ({"checkpoints": {"credentialsSecret": {"name": "s"}}}, "spec.checkpoints.credentialsSecret: is given, but nothing in this job is at"),
    ({"checkpoints": {"caBundle": {"name": "c"}}}, "spec.checkpoints.caBundle: is given, but nothing in this job is at s3://"),
    ({"budget": {"gpuHours": 64.0}, "workers": {"device": "cpu"}}, "spec.budget.gpuHours: is given, and workers on CPUs hold no GPU"),
    ({"workers": {"device": "gpu", "gpusPerNode": 0}}, "spec.workers.gpusPerNode: 0 leaves device: gpu without GPUs"),
    ({"workers": {"gpusPerNode": 0}}, "spec.workers.workersPerNode: is missing, and gpusPerNode is 0"),
    *(
        (
            {"workers": {"gpusPerNode": 0, "workersPerNode": 2}, "training": {"deepspeed": {name: {"device": "cpu"}}}},
            f"spec.training.deepspeed.{name}: keeps in the host's memory what a GPU would hold, and the workers are on CPUs",
        )
        for name in ("offload_optimizer", "offload_param")
    ),
    (
        {"workers": {"gpusPerNode": 0, "workersPerNode": 2}, "training": {"precision": "fp16"}},
        "spec.training.precision: fp16 is for GPUs without bf16, and the workers are on CPUs; use auto or fp32",
    ),
    *(
        (
            {"training": {"deepspeed": {name: {"pin_memory": True}}}},
            f"spec.training.deepspeed.{name}.pin_memory: true is of what is offloaded, and device: none offloads nothing",
        )
        for name in ("offload_optimizer", "offload_param")
    ),
    *(
        (
            {"training": {"sharding": "zero2", "deepspeed": {name: value}}},
            f"spec.training.deepspeed.{name}: is a setting of ZeRO-3, and sharding: zero2 leaves all weights on each worker",
        )
        for name, value in {
            "sub_group_size": 5,
            "stage3_prefetch_bucket_size": 5,
            "stage3_param_persistence_threshold": 5,
            "stage3_max_live_parameters": 5,
            "stage3_max_reuse_distance": 5,
            "offload_param": {"device": "cpu"},
        }.items()
    ),
    (
        {"workers": {"nodes": 2, "minNodes": 1, "queueName": "gpus"}},
        "spec.workers.minNodes: lets a job start smaller when its pods find no node, "
        "and with workers.queueName Kueue lets none of them start",
    ),
    ({"workers": {"workersPerNode": 2}}, "spec.workers.workersPerNode: differs from gpusPerNode, and a GPU has exactly one worker"),
]

NAME_CASES = [
    *(
        ({"template": {"name": "model", "variables": {name: []}}}, f'spec.template.variables: "{name}" would stand before what a chat')
        for name in ("messages", "tools", "add_generation_prompt", "strftime_now")
    ),
    ({"template": {"name": "model", "variables": {"a b": 1}}}, '"a b" is no name of a variable in Jinja; use letters, digits and _'),
    (
        {"publish": {"storage": {"path": "models/mine"}}},
        'spec.publish.storage.path: "models/mine" is no address of object storage; write s3://bucket/prefix, gs://bucket/prefix or',
    ),
    (
        {"publish": {"storage": {"path": "s3://bucket/p/model"}}, "checkpoints": {"storage": "s3://bucket/p"}},
        'spec.publish.storage.path: "s3://bucket/p/model" is inside checkpoints.storage, where only checkpoints may be; give the model a',
    ),
    ({"model": {"name": "s3:/bucket/x"}}, 'spec.model.name: "s3:/bucket/x" is no address of object storage; write s3://bucket/key'),
    (
        {"model": {"name": "org/name/more"}},
        'spec.model.name: "org/name/more" is neither a Hub id nor a path: it has more than two parts; write ./org/name/more for a path',
    ),
    (
        {"dataset": {"sources": [{"path": "./data", "roles": {"user": ["me", " Bot"], "assistant": ["bot"]}}]}},
        "spec.dataset.sources[0].roles: bot: stands for two roles; list each name once",
    ),
    ({"dataset": {"sources": [{"path": "data.jsonl"}]}}, '"data.jsonl" looks like a file, but is read as a Hub id; write ./data.jsonl'),
    ({"model": {"name": "me/my--model"}}, "holds -- or .., which no name on the Hub may; write me/my-model, or ./me/my--model for a path"),
    ({"model": {"name": "me/model.git"}}, "ends with .git; write me/model, or"),
    ({"model": {"name": "me/model."}}, "begin or end with `.` or `-`; write me/model, or"),
    ({"model": {"name": "https://huggingface.co/org/name"}}, '"https://huggingface.co/org/name" can\'t be read from there; write org/name'),
    ({"dataset": {"sources": [{"path": "hf://datasets/org/name"}]}}, "write org/name"),
    ({"dataset": {"sources": [{"path": "~/rows.jsonl"}]}}, "begins with ~, which only a shell reads; write the path from / on"),
    ({"dataset": {"sources": [{"path": "file:///data/rows.jsonl"}]}}, "is neither a Hub id nor a path; write /data/rows.jsonl"),
    (
        {"checkpoints": {"storage": "s3:/bucket/p"}},
        'spec.checkpoints.storage: "s3:/bucket/p" is no address of object storage; write s3://bucket/prefix',
    ),
    ({"checkpoints": {"storage": "gcs://bucket"}}, '"gcs://bucket" is no address of object storage; write gs://bucket'),
    ({"checkpoints": {"storage": "abfss://a/b"}}, '"abfss://a/b" is no address of object storage; write az://contain'),
    ({"checkpoints": {"storage": "az://Data/x"}}, "a container's name has 3 to 63 of a-z, 0-9 and single `-`; or a dir"),
    (
        {"model": {"name": "gs://b"}},
        'spec.model.name: "gs://b" is no address of object storage; write gs://bucket/key; a bucket\'s name has',
    ),
]


SOURCE = "spec.dataset.sources[0]"
STORAGE = {"storage": "s3://bucket/p"}


@pytest.mark.parametrize(
    ("spec", "field", "secret"),
    [
        ({"checkpoints": {"storage": "s3://AKIA:HIDDEN@bucket/p"}}, "spec.checkpoints.storage", "spec.checkpoints.credentialsSecret"),
        ({"checkpoints": {"storage": "s3://AKIA:HID/DEN@bucket/p"}}, "spec.checkpoints.storage", "spec.checkpoints.credentialsSecret"),
        (
            {"checkpoints": {**STORAGE, "endpoint": "https://AKIA:HIDDEN@host:9000"}},
            "spec.checkpoints.endpoint",
            "spec.checkpoints.credentialsSecret",
        ),
        (
            {"publish": {"storage": {"path": "s3://AKIA:HIDDEN@bucket/p"}}},
            "spec.publish.storage.path",
            "spec.publish.storage.credentialsSecret",
        ),
        ({"model": {"name": "s3://AKIA:HIDDEN@bucket/m"}}, "spec.model.name", "spec.checkpoints.credentialsSecret"),
        ({"dataset": {"sources": [{"path": "s3:/AKIA:HIDDEN@bucket/d"}]}}, f"{SOURCE}.path", f"{SOURCE}.credentialsSecret"),
    ],
)
def test_keys_in_an_address_are_refused_and_not_shown(spec, field, secret):
    problems = spec_problems(job(**spec).spec)
    assert f"{field}: holds a user name or key before `@`; put keys into {secret} or the environment" in "\n".join(map(str, problems))
    assert not any(part in str(problems) for part in ("AKIA", "HID"))


@pytest.mark.parametrize(("spec", "message"), CONTRADICTION_CASES + NAME_CASES)
def test_each_refusal_has_its_message(spec, message):
    (found,) = spec_problems(job(**spec).spec)
    assert message in str(found)


def test_every_row_of_the_tables_has_a_case():
    hit = {id(rule) for spec, _ in CONTRADICTION_CASES for rule in CONTRADICTIONS if rule.refuses(job(**spec).spec)}
    assert hit == {id(rule) for rule in CONTRADICTIONS}


def test_every_row_names_a_field_that_exists():
    assert {rule.field for rule in CONTRADICTIONS} <= set(paths(FineTuneJobSpec))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"model": {"name": "gpt2"}},
        {"model": {"name": "./m", "initialization": "random"}},
        {"model": {"name": "s3://bucket/model"}, "checkpoints": {"endpoint": "http://s3"}},
        {"dataset": {"evaluation": {"fraction": 0.1}}, "publish": {"checkpoint": "best", "gate": {"evaluationLoss": {"max": 1}}}},
        {"workers": {"device": "cpu", "workersPerNode": 3}},
        {"publish": {"hub": HUB}},
        {"publish": {"hub": {**HUB, "tag": "v1.0"}}},
        {"publish": {"storage": {"path": "s3://bucket/p-model"}}, "checkpoints": {"storage": "s3://bucket/p"}},
        {"checkpoints": {"storage": "/data/checkpoints"}},
        {"checkpoints": {"storage": "s3://bucket/a:b@c", "endpoint": "http://host:9000/a@b"}},
        {"ttlSecondsAfterFinished": 60, "retry": 1, "workers": {"queueName": "q"}},
    ],
)
def test_what_is_not_refused(spec):
    assert spec_problems(job(**spec).spec) == []


def test_fields_that_act_on_a_cluster_only_are_named():
    spec = {
        "model": {"cache": {"claimName": "c"}},
        "workers": {"queueName": "q", "image": "i", "startDeadlineSeconds": 1800},
        "cpuPods": {"nodeSelector": {"a": "b"}},
        "failurePolicy": {"maxFailures": 1},
        "budget": {"gpuHours": 64.0, "activeDeadlineSeconds": 60},
        "suspend": True,
        "retry": 1,
        "ttlSecondsAfterFinished": 60,
    }
    assert cluster_only_fields(job(**spec)) == [
        "spec.model.cache",
        "spec.workers.image",
        "spec.workers.queueName",
        "spec.cpuPods.nodeSelector",
        "spec.failurePolicy.maxFailures",
        "spec.budget.gpuHours",
        "spec.budget.activeDeadlineSeconds",
        "spec.suspend",
        "spec.retry",
        "spec.ttlSecondsAfterFinished",
    ]
    assert cluster_only_fields(job()) == []


def test_problems_come_in_the_order_of_the_spec():
    fields = ["spec.retry", "spec.workers", "spec.dataset.sources[3].path", "spec.model.name", "job.yaml"]
    ordered = in_spec_order([Problem(field, "") for field in fields])
    assert [found.field for found in ordered] == [
        "job.yaml",
        "spec.model.name",
        "spec.dataset.sources[3].path",
        "spec.workers",
        "spec.retry",
    ]
