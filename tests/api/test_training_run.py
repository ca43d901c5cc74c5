import json

import pytest
from tests.api.jobs import STARCODERBASE, data_shape, job, mapping

from finetune_api.errors import InvalidTrainingRun
from finetune_api.jobfile import parse_job
from finetune_api.plan import plan
from finetune_api.training_run import TrainingRun, Vocabulary, run_identity


@pytest.fixture
def run():
    wanted = job()
    data = data_shape()
    return TrainingRun(
        job=wanted,
        identity=run_identity(wanted),
        model_revision="c0ffee",
        model_shape=STARCODERBASE,
        vocabulary=Vocabulary(size=49156, new_token_ids=(49152, 49153, 49154, 49155)),
        data=data,
        plan=plan(wanted, STARCODERBASE, data),
    )


def test_json_gives_the_run_back(run):
    again = TrainingRun.from_json(run.to_json())
    assert again == run
    assert again.digest == run.digest
    assert again.to_json() == run.to_json()


def test_json_is_camel_case_with_defaults_written_out(run):
    data = json.loads(run.to_json())
    assert data["contractVersion"] == 2
    assert data["job"]["spec"]["training"]["optimizer"]["gradientClipping"] == 1.0
    assert data["plan"]["totalSteps"] == 87


def test_the_digest_covers_every_part(run):
    others = [
        run.model_copy(update={"model_revision": "other"}),
        run.model_copy(update={"job": job(training={"seed": 1})}),
        run.model_copy(update={"data": data_shape(rows=1)}),
    ]
    assert len({run.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize("version", [1, 3, 0, None, "2"])
def test_another_contract_version_is_refused(run, version):
    data = {**json.loads(run.to_json()), "contractVersion": version, "fieldOfTheFuture": 1}
    with pytest.raises(
        InvalidTrainingRun, match=rf"contract version {version}, and this program reads 2; continue the run with the version"
    ):
        TrainingRun.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[]", "null"])
def test_damaged_json_is_refused(text):
    with pytest.raises(InvalidTrainingRun):
        TrainingRun.from_json(text)


def test_damage_is_located(run):
    data = json.loads(run.to_json())
    data["plan"]["worldSize"] = "eight"
    with pytest.raises(InvalidTrainingRun, match=r"damaged at plan\.worldSize"):
        TrainingRun.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "spec",
    [
        {"workers": {"nodes": 2, "gpusPerNode": 4}},
        {"model": {"tokenSecret": {"name": "hub"}, "cache": {"claimName": "c"}, "shape": STARCODERBASE.model_dump(by_alias=True)}},
        {"dataset": {"processes": 7, "sources": [{"path": "org/data", "tokenSecret": {"name": "t"}}]}},
        {"training": {"microBatchSize": 1, "activationCheckpointing": False, "logEverySteps": 5, "deepspeed": {"overlap_comm": False}}},
        {"training": {"epochs": 3, "optimizer": {"warmupRatio": 0.03, "learningRate": 2e-5}}},
        {"dataset": {"sources": [{"weight": 1, "revision": "main", "path": "org/data"}]}},
        {"checkpoints": {"keep": 9}, "publish": {"directory": {"path": "x"}}, "suspend": True},
    ],
)
def test_identity_looks_at_what_decides_the_result_only(spec):
    assert run_identity(job(**spec)) == run_identity(job())


@pytest.mark.parametrize(
    "spec",
    [
        {"model": {"revision": "v2"}},
        {"dataset": {"sources": [{"path": "org/data", "limit": 10}]}},
        {"dataset": {"overlongTurns": "cut"}},
        {"template": {"masking": "blog"}},
        {"training": {"epochs": 2}},
        {"training": {"maxSteps": 3}},
        {"training": {"seed": 1}},
        {"training": {"precision": "fp32"}},
        {"training": {"globalBatchSize": 128}},
        {"training": {"optimizer": {"warmupSteps": 0}}},
    ],
)
def test_identity_changes_with_each_part(spec):
    assert run_identity(job(**spec)) != run_identity(job())


def test_identity_stays_when_settings_are_added_to_the_api():
    """Whoever changes this value parts every job of everybody from its checkpoints."""
    assert run_identity(job(training={"globalBatchSize": None})) == "f70a84409071d7aabc72989f630a5f9f68cf53109b818791e6368af6a552f6f1"


def test_what_is_written_for_an_older_program_has_no_settings_that_it_does_not_know(run):
    """As the older one wrote it, two defaults less; what is chosen stays, known or not."""
    older = json.loads(run.to_json())
    del older["job"]["spec"]["training"]["activationCheckpointing"], older["job"]["spec"]["training"]["seed"]
    chosen = run.job.spec.training.model_copy(update={"seed": 7})
    newer = run.model_copy(update={"job": run.job.model_copy(update={"spec": run.job.spec.model_copy(update={"training": chosen})})})
    written = newer.to_json(readable_with=json.dumps(older))
    training = json.loads(written)["job"]["spec"]["training"]
    assert training["seed"] == 7
    assert "activationCheckpointing" not in training
    assert TrainingRun.from_json(written) == newer
    assert newer.to_json(readable_with=newer.to_json()) == newer.to_json()


def test_how_time_came_about_is_not_written_for_a_program_that_does_not_know_it(run):
    """It would be refused, and nobody executes it."""
    assert run.plan.timing is not None
    older = json.loads(run.to_json())
    del older["plan"]["timing"]
    assert "timing" not in json.loads(run.to_json(readable_with=json.dumps(older)))["plan"]
    assert "timing" in json.loads(run.to_json(readable_with=run.to_json()))["plan"]


def test_identity_ignores_the_order_of_keys():
    data = mapping(training={"seed": 1, "epochs": 2}, template={"name": "no_system"})
    turned = {name: data[name] for name in reversed(data)}
    turned["spec"] = {name: data["spec"][name] for name in reversed(data["spec"])}
    assert run_identity(parse_job(turned)) == run_identity(parse_job(data))


def test_a_run_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(InvalidTrainingRun, match=r"run\.json is not JSON; it was cut off or altered; remove it to plan again"):
        TrainingRun.from_json("[" * 100_000)
