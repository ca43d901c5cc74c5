"""The CRDs on a real API server, and its verdicts beside pydantic's: whatever one refuses, the other refuses too."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.api.generated_specs import Case, Generator
from tests.api.jobs import mapping
from tests.api.planning_refusals import REFUSALS, STORAGE
from tests.control_plane.crd_server import MANIFESTS, Server, at_once, server_with_crds

from finetune_api.crd import JOBS
from finetune_api.errors import InvalidSpec
from finetune_api.fields import without_nulls
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.jobfile import parse_job
from finetune_api.report import REPORTS, FineTuneReportStatus, parse_report
from finetune_api.status import FineTuneJobStatus, UnreadableStatus, parse_status

pytestmark = pytest.mark.control_plane

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(control_plane) -> Server:
    return server_with_crds(control_plane, "crd")


@pytest.mark.parametrize("name", [JOBS, REPORTS])
def test_the_api_server_accepts_the_definition(control_plane, server, name):
    """It refuses rules that don't compile or cost too much; a schema that is not structural it only marks."""
    found = json.loads(control_plane.kubectl("get", "crd", f"{name}.finetune.dev", "-o", "json"))
    conditions = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    wanted = yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())["spec"]["versions"][0]
    assert found["spec"]["versions"][0]["schema"] == wanted["schema"]  # nothing was dropped


# ---- verdicts on specs


def disagreement(server: Server, whole: Any, told: object) -> str | None:
    """What differs between the verdicts, or between the jobs that came out: defaults, numbers, nulls."""
    manifest = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "job"}, "spec": whole}
    status, reply = server.create(JOBS, manifest)
    assert status in (201, 400, 422), reply
    try:
        job = parse_job(manifest)
    except InvalidSpec as error:
        return f"{told}: accepted by the server, and not by us: {error}" if status == 201 else None
    if status != 201:
        return f"{told}: accepted by us, and not by the server: {reply['message'][:400]}"
    return None if parse_job({**reply, "metadata": manifest["metadata"]}) == job else f"{told}: the defaults differ"


def accepted(case: Case) -> bool:
    try:
        parse_job({**mapping(), "spec": case.whole})
    except InvalidSpec:
        return False
    return True


def test_each_field_by_itself(server):
    """Thousands of values: other types, bounds and one beyond, lengths in characters, enums, typing slips in keys, nulls."""
    cases = list(Generator(FineTuneJobSpec).cases("spec"))
    assert at_once(lambda case: disagreement(server, case.whole, case), cases) == []
    good = [case for case in cases if accepted(case)]
    assert {case.path for case in good} == {case.path for case in cases}  # the values reach every field
    assert 800 < len(good) < len(cases) - 800


def test_fields_together(server):
    generator = Generator(FineTuneJobSpec)
    cases = [Case("spec", f"seed {seed}", generator.at_random(seed, share_bad=0.005)) for seed in range(400)]
    assert at_once(lambda case: disagreement(server, case.whole, case), cases) == []
    assert 100 < sum(map(accepted, cases)) < 300


BY_HAND = [
    ("a field's value is a key's", {"model": "org/name"}, False),
    ("snake case", {"training": {"micro_batch_size": 4}}, False),
    ("camel case in DeepSpeed's block", {"training": {"deepspeed": {"overlapComm": True}}}, False),
    ("a key of elsewhere", {"training": {"learningRate": 1e-5}}, False),
    ("defaults written out", {"training": {"microBatchSize": 4, "optimizer": {"schedule": "cosine"}}}, True),
    ("a whole number with a point", {"training": {"microBatchSize": 4.0, "epochs": 3.0}, "checkpoints": {"every": {"steps": 5.0}}}, True),
    ("a part of a number", {"training": {"epochs": 2.5}}, False),
    ("a duration", {"checkpoints": {"every": {"seconds": "10m"}}}, False),
    ("a number as text", {"training": {"optimizer": {"learningRate": "2e-5"}}}, False),
    ("yes", {"suspend": "yes"}, False),
    ("null for a default", {"training": None, "workers": {"nodes": None}, "suspend": None}, True),
    ("null for an object without a default", {"dataset": {"evaluation": None}}, True),
    ("null for what is needed", {"model": {"name": None}}, False),
    ("null in a list", {"dataset": {"sources": [None]}}, False),
    ("null in labels", {"workers": {"nodeSelector": {"a": None}}}, True),
    ("an empty list", {"dataset": {"sources": []}}, False),
    ("65 sources", {"dataset": {"sources": [{"path": "a"}] * 65}}, False),
    ("64 sources", {"dataset": {"sources": [{"path": "a"}] * 64}}, True),
    ("epochs and maxSteps", {"training": {"epochs": 1, "maxSteps": 1}}, False),
    ("warm-up twice", {"training": {"optimizer": {"warmupRatio": 0.1, "warmupSteps": 0}}}, False),
    ("split and fraction", {"dataset": {"evaluation": {"split": "test", "fraction": 0.1}}}, False),
    ("hub and directory", {"publish": {"hub": {"repository": "a/b"}, "directory": {"path": "x"}}}, False),
    ("what is not built", {"training": {"sharding": "zero1"}}, False),
    ("adapters", {"training": {"method": "lora", "lora": {"r": 16, "target_modules": ["q_proj", "mlp.c_fc"]}}}, True),
    ("adapters without settings", {"training": {"method": "lora"}}, True),
    ("adapters beside a base in 4 bits", {"training": {"method": "qlora", "lora": {"r": 16}}}, True),
    ("settings for adapters that nobody trains", {"training": {"lora": {"r": 16}}}, False),
    ("all layers and some", {"training": {"method": "lora", "lora": {"target_modules": ["all-linear", "q_proj"]}}}, False),
    ("an adapter alone", {"training": {"method": "lora"}, "publish": {"merge": False}}, True),
    ("no adapter alone", {"publish": {"merge": False}}, False),
    ("hub and storage", {"publish": {"hub": {"repository": "a/b"}, "storage": {"path": "s3://bucket/x"}}}, False),
    ("directory and storage", {"publish": {"directory": {"path": "/x"}, "storage": {"path": "s3://bucket/x"}}}, False),
    ("published to object storage", {"publish": {"storage": {"path": "s3://bucket/x", "endpoint": "https://s3"}}}, True),
    ("a tag of the commit", {"publish": {"hub": {"repository": "a/b", "tag": "v1.0"}}}, True),
    ("a tag that git refuses", {"publish": {"hub": {"repository": "a/b", "tag": "-v1"}}}, False),
    ("custom without tokens", {"template": {"name": "custom"}}, False),
    ("tokens without custom", {"template": {"tokens": {}}}, False),
    ("two tokens alike", {"template": {"name": "custom", "tokens": {"user": "<|end|>"}}}, False),
    ("a token like another's default", {"template": {"name": "custom", "tokens": {"system": "<|user|>"}}}, False),
    ("neither seconds nor steps", {"checkpoints": {"every": {}}}, False),
    ("seconds and steps", {"checkpoints": {"every": {"seconds": 1, "steps": 1}}}, False),
    ("a volume of nothing", {"workers": {"volumes": [{"name": "v", "mountPath": "/v"}]}}, False),
    ("a volume of two", {"workers": {"volumes": [{"name": "v", "mountPath": "/v", "emptyDir": {}, "secret": {"name": "s"}}]}}, False),
    ("hostPath", {"workers": {"volumes": [{"name": "v", "mountPath": "/v", "hostPath": {"path": "/"}}]}}, False),
    ("a path upwards in a Secret's key", {"model": {"tokenSecret": {"name": "s", "key": "../token"}}}, False),
    ("Exists with a value", {"workers": {"tolerations": [{"operator": "Exists", "value": "v"}]}}, False),
    ("Exists with an empty value", {"workers": {"tolerations": [{"operator": "Exists", "value": ""}]}}, True),
    ("Equal without a key", {"workers": {"tolerations": [{"value": "v"}]}}, False),
    ("seconds of another effect", {"workers": {"tolerations": [{"key": "k", "effect": "NoSchedule", "tolerationSeconds": 1}]}}, False),
    ("a learning rate of 0", {"training": {"optimizer": {"learningRate": 0}}}, False),
    ("a dropout of 1", {"training": {"dropout": 1}}, False),
    ("a seed of 64 bits", {"training": {"seed": 2**63 - 1}}, True),
    ("a seed of 65 bits", {"training": {"seed": 2**64}}, False),
    ("a typing slip in an affinity", {"workers": {"affinity": {"nodeAffinity": {"requiredDuringScheduling": {}}}}}, False),
    ("text in other scripts", {"template": {"systemText": "\u4f60\u597d \U0001f44b\n"}}, True),
]


@pytest.mark.parametrize(("spec", "good"), [row[1:] for row in BY_HAND], ids=[row[0] for row in BY_HAND])
def test_verdicts_by_hand(server, spec, good):
    whole = mapping(**spec)["spec"]
    assert server.create(JOBS, {**mapping(), "spec": whole})[0] == (201 if good else 422) or not good
    assert accepted(Case("spec", spec, whole)) is good
    assert disagreement(server, whole, spec) is None


@pytest.mark.parametrize(
    "name",
    ["job", "j", "a-1", "a" * 40, "a" * 41, "1a", "-a", "a-", "A", "a.b", "a_b", "", "a b", "\u00e9"],
)
def test_names(server, name):
    manifest = {**mapping(), "metadata": {"name": name}}
    try:
        parse_job(manifest)
        good = True
    except InvalidSpec:
        good = False
    assert (server.create(JOBS, manifest)[0] == 201) is good


def test_a_key_of_the_manifest_is_refused_too(server):
    assert server.create(JOBS, {**mapping(), "specs": {}})[0] == 400
    assert server.create(JOBS, {name: value for name, value in mapping().items() if name != "spec"})[0] == 422


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_what_only_planning_refuses_the_server_accepts(server, refusal):
    spec = {**refusal.spec, "checkpoints": {**STORAGE, **refusal.spec.get("checkpoints", {})}}
    status, reply = server.create(JOBS, mapping(**spec))
    assert status == 201, reply


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("manifests/samples/*.yaml"), *ROOT.glob("examples/*.yaml")]), ids=lambda path: path.name
)
def test_samples_are_accepted(server, path):
    for manifest in yaml.safe_load_all(path.read_text()):
        if manifest is not None and manifest["kind"] == "FineTuneJob":
            manifest["metadata"].pop("namespace", None)
            status, reply = server.create(JOBS, manifest)
            assert status == 201, reply


# ---- statuses: what the operator and the driver write


def status_disagreement(server: Server, plural: str, model: Any, parse: Any, case: Case) -> str | None:
    status, reply = server.patch_status(plural, "verdicts", case.whole)
    assert status in (200, 400, 422), reply
    good = isinstance(case.whole, dict) and parse(without_nulls(case.whole, model))
    # A newer operator's words are read and kept; the definition that came with it takes them, today's need not.
    if good and "Unsupported value" in reply.get("message", ""):
        return None
    if good != (status == 200):
        return f"{case}: {'accepted' if good else 'refused'} by us; the server: {reply.get('message', 'accepted')[:300]}"
    return None


def is_comparable(case: Case) -> bool:
    """Left aside: dates, of which the models know only the length, and that each type of condition comes once."""
    twice = case.path == "status.conditions" and isinstance(case.value, list) and len(case.value) > 1
    return not (case.path.endswith(("Time", "At", ".since", ".until")) or twice) and case.whole is not None


def reads_job_status(data: Any) -> bool:
    try:
        parse_status(data)
    except UnreadableStatus:
        return False
    return True


@pytest.mark.parametrize(
    ("plural", "kind", "model", "parse"),
    [
        (JOBS, "FineTuneJob", FineTuneJobStatus, reads_job_status),
        (REPORTS, "FineTuneReport", FineTuneReportStatus, lambda data: parse_report({"status": data}) is not None),
    ],
    ids=[JOBS, REPORTS],
)
def test_verdicts_on_statuses(server, plural, kind, model, parse):
    spec = mapping()["spec"] if plural == JOBS else {}
    created = {"apiVersion": "finetune.dev/v1alpha1", "kind": kind, "metadata": {"name": "verdicts"}, "spec": spec}
    assert server.create(plural, created, dry_run=False)[0] in (201, 409)
    cases = [case for case in Generator(model, closed=False).cases("status") if is_comparable(case)]
    assert at_once(lambda case: status_disagreement(server, plural, model, parse, case), cases) == []
    server.delete_all(plural)
