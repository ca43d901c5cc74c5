"""The Jobs of preparation, evaluation and publication, the frozen run, the report, access, and the digests in their names."""

import json
from typing import Any

import pytest
from tests.operator.builders import finetunejob, owner, raw_job, settings, stored, stranger, training_run
from tests.operator.resources.manifests import manifests, mounts, templates, variables
from tests.operator.resources.pod_security import violations

from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.finetunejob import FineTuneJob
from finetune_api.jobfile import parse_job
from finetune_api.report import parse_report
from finetune_api.training_run import TrainingRun
from finetune_operator import keys
from finetune_operator.resources.digests import evaluation_job_digest, preparation_digest, publication_digest
from finetune_operator.resources.owner import is_owned, owner_of
from finetune_operator.resources.preparation_job import preparation_job
from finetune_operator.resources.publication_job import publication_job

Json = dict[str, Any]


@pytest.mark.parametrize("stage", ["preparation", "evaluation", "publication"])
def test_when_a_job_tries_again(stage: str) -> None:
    spec = manifests(finetunejob())[stage]["spec"]
    assert spec["backoffLimit"] == 3
    assert spec["podReplacementPolicy"] == "Failed"
    assert not spec.keys() & {"suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished"}
    invalid, disrupted, stopped = spec["podFailurePolicy"]["rules"]
    assert (invalid["action"], invalid["onExitCodes"]["values"]) == ("FailJob", [2])
    assert (disrupted["action"], disrupted["onPodConditions"]) == ("Ignore", [{"type": "DisruptionTarget", "status": "True"}])
    assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("FailJob", [3])
    (container,) = spec["template"]["spec"]["containers"]
    assert {rule["onExitCodes"]["containerName"] for rule in (invalid, stopped)} == {container["name"]}


@pytest.mark.parametrize(
    ("stage", "package", "verb"),
    [
        ("preparation", "finetune_trainer.pods", "prepare"),
        ("evaluation", "finetune_assistant.pods", "evaluate"),
        ("publication", "finetune_trainer.pods", "publish"),
    ],
)
def test_commands(stage: str, package: str, verb: str) -> None:
    assert templates(finetunejob())[stage]["spec"]["containers"][0]["command"] == ["python", "-m", package, verb]


@pytest.mark.parametrize("asked", [{"tasks": ["mmlu"]}, {"judge": {"model": "m"}}, {"samples": {}}], ids=str)
def test_an_evaluation_is_looked_at_before_training(asked: Json) -> None:
    command = templates(finetunejob(evaluation=asked))["preparation"]["spec"]["containers"][0]["command"]
    assert command == ["python", "-m", "finetune_assistant.pods", "prepare"]


def test_names_carry_digests() -> None:
    job, run = finetunejob(), training_run()
    made = manifests(job)
    assert made["preparation"]["metadata"]["name"] == f"starchat-prepare-{preparation_digest(job)[:8]}"
    assert made["publication"]["metadata"]["name"] == f"starchat-publish-{publication_digest(run.digest, job)[:8]}"
    assert made["evaluation"]["metadata"]["name"] == f"starchat-evaluate-{evaluation_job_digest(run.identity, job)[:8]}"
    assert made["run"]["metadata"]["name"] == f"starchat-run-{run.digest[:8]}"


@pytest.mark.parametrize("pod", ["preparation", "head", "evaluation", "publication"])
def test_the_job_is_a_file_that_reads_back(pod: str) -> None:
    job = finetunejob(template={"systemText": 'Sie heißen "Fennel".\n'})
    template = templates(job)[pod]
    source = mounts(template)["/etc/finetune/job"]["downwardAPI"]["items"]
    assert source == [{"path": "job.json", "fieldRef": {"fieldPath": "metadata.annotations['finetune.dev/job-spec']"}}]
    assert parse_job(json.loads(template["metadata"]["annotations"]["finetune.dev/job-spec"])) == job


@pytest.mark.parametrize("stage", ["preparation", "evaluation", "publication"])
def test_kueue_is_told_of_the_queue_of_cpu_pods_alone(stage: str) -> None:
    queued = manifests(finetunejob(workers={"queueName": "gpus"}, cpuPods={"queueName": "cpus"}))[stage]
    assert queued["metadata"]["labels"][keys.QUEUE_LABEL] == "cpus"
    assert keys.QUEUE_LABEL not in manifests(finetunejob(workers={"queueName": "gpus"}))[stage]["metadata"]["labels"]


def test_labels_and_annotations_of_the_job_change_no_pod() -> None:
    plain = finetunejob()
    noted = FineTuneJob.model_validate(
        plain.model_copy(update={"metadata": plain.metadata.model_copy(update={"annotations": {"kubectl": "x"}, "labels": {"a": "b"}})})
    )
    assert preparation_job(noted, owner(), settings()) == preparation_job(plain, owner(), settings())


def test_the_frozen_run_reads_back() -> None:
    run = training_run()
    made = manifests(finetunejob())["run"]
    assert made["immutable"] is True
    assert TrainingRun.from_json(made["data"]["run.json"]) == run


def test_the_report_begins_empty() -> None:
    made = manifests(finetunejob())["report"]
    found = parse_report(made)
    assert found is not None
    assert found.spec.stop is None
    assert (made["apiVersion"], made["kind"], made["metadata"]["name"]) == ("finetune.dev/v1alpha1", "FineTuneReport", "starchat")


def test_the_head_may_touch_one_object() -> None:
    made = manifests(finetunejob())
    for rule in made["role"]["rules"]:
        assert rule["apiGroups"] == ["finetune.dev"]
        assert rule["resourceNames"] == ["starchat"]
    assert [(rule["resources"], rule["verbs"]) for rule in made["role"]["rules"]] == [
        (["finetunereports"], ["get"]),
        (["finetunereports/status"], ["patch"]),
    ]
    assert made["role binding"]["roleRef"]["name"] == made["role"]["metadata"]["name"] == "starchat-finetune"


@pytest.mark.parametrize(
    ("spec", "subject"),
    [
        ({}, "starchat-finetune"),
        ({"workers": {"serviceAccountName": "irsa"}}, "irsa"),
        ({"workers": {"serviceAccountName": "irsa"}, "cpuPods": {"serviceAccountName": "head"}}, "head"),
    ],
)
def test_the_binding_is_for_whoever_the_head_is(spec: Json, subject: str) -> None:
    job = finetunejob(**spec)
    (found,) = manifests(job)["role binding"]["subjects"]
    assert found == {"kind": "ServiceAccount", "name": subject, "namespace": "ml"}
    assert templates(job)["head"]["spec"]["serviceAccountName"] == subject


def test_cpu_pods_ask_for_something_unless_told_otherwise() -> None:
    def requests(**resources: Json) -> Json:
        template = templates(finetunejob(cpuPods={"resources": resources}))["preparation"]
        return dict(template["spec"]["containers"][0]["resources"])

    assert requests() == {"requests": {"cpu": "500m", "memory": "2Gi"}}
    assert requests(requests={"cpu": "4"}, limits={"cpu": "8"}) == {"requests": {"cpu": "4", "memory": "2Gi"}, "limits": {"cpu": "8"}}
    assert requests(requests={"cpu": "4"}) == {"requests": {"cpu": "4", "memory": "2Gi"}}
    # A limit is the request, too: 2Gi would be above it.
    assert requests(limits={"memory": "1Gi"}) == {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}}


@pytest.mark.parametrize("stage", ["preparation", "evaluation", "publication"])
def test_what_cpu_pods_are_told(stage: str) -> None:
    found = variables(templates(finetunejob())[stage])
    assert (found["FINETUNE_JOB"], found["FINETUNE_NAMESPACE"]) == ("starchat", "ml")
    assert found["FINETUNE_SECRETS"] == "/etc/finetune/secrets"
    assert found["FINETUNE_SCRATCH"] == found["HOME"] == "/var/lib/finetune"
    assert found.get("FINETUNE_RUN") == ("/etc/finetune/run/run.json" if stage != "preparation" else None)


CHANGES = {
    "model": {"model": {"revision": "v2"}},
    "data": {"dataset": {"sources": [{"path": "org/other"}]}},
    "template": {"template": {"name": "no_system"}},
    "training": {"training": {"epochs": 2}},
    "storage": {"checkpoints": {"storage": "s3://other/prefix"}},
    "credentials": {"checkpoints": {"credentialsSecret": {"name": "other"}}},
    "cpu pods": {"cpuPods": {"nodeSelector": {"a": "b"}}},
    "image": {"workers": {"image": "mine:2"}},
    "identity": {"workers": {"serviceAccountName": "irsa"}},
    "publish": {"publish": {"hub": {"repository": "org/out"}}},
    "generation": {"generation": {"temperature": 0.5}},
    "retry": {"retry": 1},
    "keep": {"checkpoints": {"keep": 5}},
    "every": {"checkpoints": {"every": {"steps": 5}}},
    "nodes": {"workers": {"nodes": 1}},
    "tasks": {"evaluation": {"tasks": ["hellaswag"]}},
    "judge": {"evaluation": {"judge": {"model": "m"}}},
    "judge's key": {"evaluation": {"judge": {"model": "m", "apiKeySecret": {"name": "judge", "key": "token"}}}},
    "samples": {"evaluation": {"samples": {}}},
    "how often": {"dataset": {"evaluation": {"fraction": 0.1}}, "evaluation": {"everySteps": 7}},
    "checkpoint": {"dataset": {"evaluation": {"fraction": 0.1}}, "publish": {"checkpoint": "best"}},
    "suspend": {"suspend": True},
    "ttl": {"ttlSecondsAfterFinished": 60},
}
# What the run's digest covers is in the frozen run, whatever the job says now.
PREPARED_ANEW = {
    "model",
    "data",
    "template",
    "training",
    "storage",
    "credentials",
    "cpu pods",
    "image",
    "identity",
    "publish",
    "retry",
    "how often",
    "checkpoint",
    "tasks",
    "judge's key",
}
PUBLISHED_ANEW = {"storage", "credentials", "cpu pods", "image", "identity", "publish", "generation", "retry"}
PUBLISHED_ANEW |= {"tasks", "judge", "judge's key", "samples", "checkpoint"}
MEASURED_ANEW = {"generation", "tasks", "judge", "judge's key", "samples", "how often", "checkpoint"}
EVALUATED_ANEW = MEASURED_ANEW | {"storage", "credentials", "cpu pods", "image", "identity", "retry"}


@pytest.mark.parametrize("change", CHANGES)
def test_what_makes_a_new_job(change: str) -> None:
    plain, changed, run = finetunejob(), finetunejob(**CHANGES[change]), training_run()
    assert (preparation_digest(changed) != preparation_digest(plain)) == (change in PREPARED_ANEW)
    assert (publication_digest(run.digest, changed) != publication_digest(run.digest, plain)) == (change in PUBLISHED_ANEW)
    one, other = (evaluation_digest(run.identity, job) for job in (plain, changed))
    assert (one != other) == (change in MEASURED_ANEW)
    one, other = (evaluation_job_digest(run.identity, job) for job in (plain, changed))
    assert (one != other) == (change in EVALUATED_ANEW)


@pytest.mark.parametrize(
    ("change", "measured_anew"),
    [
        ({"batchSize": 1}, False),
        ({"judge": {"maxTokens": 9}}, False),
        ({"judge": {"apiKeySecret": {"name": "other"}}}, False),
        ({"pod": {"gpus": 1}}, False),
        ({"judge": {"limit": 9}}, True),
        ({"judge": {"baseUrl": "https://other/v1"}}, True),
        ({"numFewshot": 0}, True),
        ({"taskData": "/data"}, True),
        ({"samples": {"count": 1}}, True),
    ],
    ids=str,
)
def test_what_gives_other_figures(change: Json, measured_anew: bool) -> None:
    """What gives none is another Job all the same, which finds what the former one left."""
    asked = {"tasks": ["a"], "judge": {"model": "m"}, "samples": {}}
    plain, changed = (
        finetunejob(evaluation=one) for one in (asked, {**asked, **change, "judge": {"model": "m"} | change.get("judge", {})})
    )
    assert (evaluation_digest("run", plain) != evaluation_digest("run", changed)) == measured_anew
    assert evaluation_job_digest("run", plain) != evaluation_job_digest("run", changed)
    assert evaluation_digest("run", plain) != evaluation_digest("another", plain)


def test_an_evaluation_pod_is_a_cpu_pod_with_what_it_asks_for() -> None:
    own = {
        "gpus": 2,
        "image": "mine:2",
        "imagePullSecrets": [{"name": "own"}],
        "resources": {"requests": {"memory": "64Gi"}},
        "env": [{"name": "OPENAI_BASE_URL", "value": "https://judge/v1"}],
        "nodeSelector": {"pool": "evaluation"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "volumes": [{"name": "tasks", "mountPath": "/data", "readOnly": True, "configMap": {"name": "tasks"}}],
        "serviceAccountName": "evaluator",
        "queueName": "evaluations",
    }
    cpu_pods = {
        "resources": {"requests": {"cpu": "2", "memory": "4Gi"}},
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}, {"name": "OPENAI_BASE_URL", "value": "http://other"}],
        "nodeSelector": {"pool": "cpu", "zone": "a"},
        "volumes": [{"name": "models", "mountPath": "/models", "persistentVolumeClaim": {"claimName": "models"}}],
        "queueName": "cpus",
    }
    job = finetunejob(
        workers={"gpuResource": "amd.com/gpu"},
        cpuPods=cpu_pods,
        evaluation={"tasks": ["a"], "judge": {"model": "m", "apiKeySecret": {"name": "judge"}}, "pod": own},
        model={"name": "org/model", "cache": {"claimName": "weights"}},
    )
    made = manifests(job)["evaluation"]
    spec = made["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert made["metadata"]["labels"][keys.QUEUE_LABEL] == "evaluations"
    assert container["resources"] == {"requests": {"amd.com/gpu": "2", "cpu": "2", "memory": "64Gi"}, "limits": {"amd.com/gpu": "2"}}
    found = variables(made["spec"]["template"])
    assert (found["OPENAI_BASE_URL"], found["HTTPS_PROXY"]) == ("https://judge/v1", "http://proxy")
    assert found["FINETUNE_MODEL_CACHE"] == "/var/lib/finetune/model-cache"
    assert (container["image"], spec["imagePullSecrets"], spec["serviceAccountName"]) == ("mine:2", [{"name": "own"}], "evaluator")
    assert spec["nodeSelector"] == {"pool": "evaluation", "zone": "a"}
    assert {"/data", "/models", "/etc/finetune/secrets/judge", "/var/lib/finetune/model-cache"} <= mounts(made["spec"]["template"]).keys()


def test_another_run_is_published_anew() -> None:
    job = finetunejob()
    one, two = training_run(job), training_run(job, rows=5120)
    names = {publication_job(run.digest, job, owner(), settings())["metadata"]["name"] for run in (one, two)}
    assert len(names) == 2


def test_an_upgraded_default_image_makes_no_new_job() -> None:
    job = finetunejob()
    one, two = (preparation_job(job, owner(), settings(trainer_image=image)) for image in ("trainer:1", "trainer:2"))
    assert one["metadata"] == two["metadata"]


def test_whose_object_it_is() -> None:
    made = stored(manifests(finetunejob())["rayjob"])
    assert is_owned(made, owner())
    assert not is_owned(made, owner(uid="of a job of that name before")), "a job that was deleted and applied again is another one"
    assert not is_owned(stranger(made), owner())
    assert owner_of(raw_job()) == owner()


@pytest.mark.parametrize("asked", [{}, {"tasks": ["humaneval"]}], ids=["no evaluation", "an evaluation"])
def test_a_profile_for_the_sandbox_is_for_pods_that_try_it(asked: Json) -> None:
    made = templates(finetunejob(evaluation=asked), sandbox_profile="sandbox.json")
    of_node = {"type": "Localhost", "localhostProfile": "sandbox.json"}
    found = {stage for stage, template in made.items() if template["spec"]["securityContext"]["seccompProfile"] == of_node}
    assert found == ({"preparation", "evaluation"} if asked else {"evaluation"})
    assert [problem for template in made.values() for problem in violations(template["spec"])] == []
