"""What may change when, decided by the API server from the stored status; and what kubectl shows."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.api.generated_specs import Case, Generator
from tests.api.jobs import mapping
from tests.control_plane.crd_server import MANIFESTS, Server, at_once, server_with_crds
from tests.control_plane.played import eventually
from tests.upgrade.former import FORMER_SOURCES

from finetune_api.crd import JOBS, finetunejobs
from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.jobfile import parse_job
from finetune_api.status import CheckpointsStatus, CheckpointStatus, FineTuneJobStatus, ProgressStatus, PublicationStatus

pytestmark = pytest.mark.control_plane

NAMESPACE = "crd-updates"
START = "2026-11-23T10:00:00Z"
NEVER = (
    "spec.model",
    "spec.dataset",
    "spec.template",
    "spec.training",
    *(f"spec.checkpoints.{n}" for n in ("storage", "endpoint", "region")),
)
CREDENTIALS = ("tokenSecret", "credentialsSecret", "cache")
_DEEPEST = 3  # points in a path


@pytest.fixture(scope="module")
def server(control_plane) -> Server:
    return server_with_crds(control_plane, NAMESPACE)


def may_change(path: str, *, suspended: bool) -> bool:
    """Whether a field may change after the first attempt began."""
    if path.startswith(NEVER):
        return any(name in path for name in CREDENTIALS)
    return suspended or not path.startswith("spec.workers")


def changes() -> Iterator[tuple[str, Any, Any]]:
    """For each field two good specs that differ in it alone: two values of it, or its absence and a value.

    Both for a field of a section. Deeper parts are compared as wholes: of theirs one pair, and none of the parts of parts.
    """
    good: dict[str, list[Case]] = {}
    for case in Generator(FineTuneJobSpec).cases("spec"):
        if case.path.count(".") <= _DEEPEST and is_good(case.whole):
            good.setdefault(case.path, []).append(case)
    smallest = Generator(FineTuneJobSpec).smallest()
    for path, cases in good.items():
        wholes = [smallest, *(case.whole for case in cases)]
        others = [whole for whole in wholes[1:] if spec(whole) != spec(wholes[1])]
        pairs = [(wholes[1], whole) for whole in others[:1]]
        pairs += [(smallest, whole) for whole in wholes[1:] if spec(whole) != spec(smallest)][:1]
        # A field that acts only beside another one, which may never change, can't be told alone from its absence.
        telling = [(path, old, new) for old, new in pairs if without(path, spec(old)) == without(path, spec(new))]
        yield from telling[: 1 if path.count(".") == _DEEPEST else None]


def without(path: str, whole: FineTuneJobSpec) -> Any:
    """The spec as a mapping, without the field of that path."""
    found = whole.model_dump(mode="json", by_alias=True)
    *parents, last = path.removeprefix("spec.").split(".")
    places = [found]
    for parent in parents:
        inner = [place.get(parent.removesuffix("[]")) for place in places]
        places = [one for each in inner for one in (each if isinstance(each, list) else [each]) if isinstance(one, dict)]
    for place in places:
        place.pop(last.removesuffix("[]"), None)
    return found


def spec(whole: Any) -> FineTuneJobSpec:
    return parse_job({**mapping(), "spec": whole}).spec


def is_good(whole: Any) -> bool:
    try:
        spec(whole)
    except InvalidSpec:
        return False
    return True


def manifest(name: str, whole: Any, **changed: Any) -> dict[str, Any]:
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}, "spec": {**whole, **changed}}


def replaced(server: Server, name: str, stored: dict[str, Any], whole: Any, **changed: Any) -> int:
    """The server's answer to the change, on a dry run."""
    new = manifest(name, whole, **changed)
    new["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
    return server.replace(JOBS, new)[0]


def wrong_answers(server: Server, numbered: tuple[int, tuple[str, Any, Any]]) -> list[str]:
    """Everything the server allows or refuses against the rules, in a job's phases: not begun, begun, asked to stop, suspended, failed."""
    number, (path, old, new) = numbered
    name, found = f"change-{number}", []
    status, stored = server.create(JOBS, manifest(name, old), dry_run=False)
    assert status == 201, stored
    if replaced(server, name, stored, new) != 200:
        found.append(f"{path} can't change before the first attempt")
    _, stored = server.patch_status(JOBS, name, {"startTime": START}, dry_run=False)
    if replaced(server, name, stored, old) != 200:
        found.append(f"{path}: the same spec again is refused")
    if (replaced(server, name, stored, new) == 200) is not may_change(path, suspended=False):
        found.append(f"{path} after the first attempt, from {old} to {new}")
    status, stored = server.replace(JOBS, {**manifest(name, old, suspend=True), "metadata": stored["metadata"]}, dry_run=False)
    assert status == 200, stored
    if (replaced(server, name, stored, {**new, "suspend": True}) == 200) is not may_change(path, suspended=False):
        found.append(f"{path} while it is asked to stop, from {old} to {new}")
    _, stored = server.patch_status(JOBS, name, {"conditions": [true("Suspended")]}, dry_run=False)
    if (replaced(server, name, stored, {**new, "suspend": True}) == 200) is not may_change(path, suspended=True):
        found.append(f"{path} while suspended, from {old} to {new}")
    status, stored = server.replace(JOBS, {**manifest(name, old), "metadata": stored["metadata"]}, dry_run=False)
    assert status == 200, stored
    if (replaced(server, name, stored, new) == 200) is not may_change(path, suspended=False):
        found.append(f"{path} when it was let go on, from {old} to {new}")
    _, stored = server.patch_status(JOBS, name, {"conditions": [true("Failed")]}, dry_run=False)
    if (replaced(server, name, stored, new) == 200) is not may_change(path, suspended=True):
        found.append(f"{path} after a failure, from {old} to {new}")
    return found


def true(kind: str) -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": kind, "lastTransitionTime": START}


def test_what_may_change_when(server):
    pairs = list(changes())
    assert len({path for path, _, _ in pairs}) > 180
    wrong = at_once(lambda numbered: wrong_answers(server, numbered) or None, enumerate(pairs))
    assert [answer for answers in wrong for answer in answers] == []
    server.delete_all(JOBS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": {"epochs": 2}}, "spec.training can't change after the first attempt; create another job for it"),
        ({"workers": {"nodes": 2}}, "spec.workers can't change after the first attempt; set suspend: true first, wait for the condition"),
        ({"suspend": True, "workers": {"nodes": 2}}, "set suspend: true first, wait for the condition Suspended, and change it then"),
    ],
)
def test_a_refused_change_says_what_to_do(server, change, words):
    whole = mapping()["spec"]
    server.create(JOBS, manifest("refused", whole), dry_run=False)
    _, stored = server.patch_status(JOBS, "refused", {"startTime": START}, dry_run=False)
    new = {**manifest("refused", mapping(**change)["spec"]), "metadata": stored["metadata"]}
    status, reply = server.replace(JOBS, new)
    assert status == 422
    assert words in reply["message"]
    server.delete_all(JOBS)


def test_changing_workers_and_resuming_is_one_change(server):
    """A suspended job may be given other workers with the same apply that resumes it."""
    server.create(JOBS, manifest("resumed", mapping()["spec"], suspend=True), dry_run=False)
    _, stored = server.patch_status(JOBS, "resumed", {"startTime": START, "conditions": [true("Suspended")]}, dry_run=False)
    assert replaced(server, "resumed", stored, mapping(workers={"nodes": 2})["spec"], suspend=False) == 200
    server.delete_all(JOBS)


TODAYS_SOURCES = [{("path" if key == "name" else key): value for key, value in source.items()} for source in FORMER_SOURCES]


def test_a_job_that_was_stored_with_a_former_word_goes_on(control_plane, server, tmp_path):
    """Its status is written, it is suspended, and may be applied in today's words: not with other data."""
    former = mapping(dataset={"sources": FORMER_SOURCES})["spec"]

    def is_taken(name: str, *, dry_run: bool) -> bool:
        return server.create(JOBS, manifest(name, former), dry_run=dry_run)[0] == 201

    (tmp_path / "former.yaml").write_text(yaml.safe_dump(taking_everything(finetunejobs())), encoding="utf-8")
    try:
        control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", tmp_path / "former.yaml")
        eventually("a definition that takes former words", lambda: is_taken("former", dry_run=False))
    finally:
        control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", MANIFESTS / "finetunejobs.yaml")
    eventually("today's definition", lambda: not is_taken("new", dry_run=True))

    for status in ({"startTime": START}, {"stage": "Training"}):
        code, stored = server.patch_status(JOBS, "former", status, dry_run=False)
        assert code == 200, stored
    assert stored["spec"]["dataset"]["sources"][0]["name"] == "org/data"
    assert replaced(server, "former", stored, former, suspend=True) == 200
    assert replaced(server, "former", stored, mapping(dataset={"sources": TODAYS_SOURCES})["spec"]) == 200
    others = [{**TODAYS_SOURCES[0], "path": "org/others"}, TODAYS_SOURCES[1]]
    assert replaced(server, "former", stored, mapping(dataset={"sources": others})["spec"]) == 422
    server.delete_all(JOBS)


def taking_everything(crd: dict[str, Any]) -> dict[str, Any]:
    """The definition as one that knows no field and refuses none."""
    for version in crd["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return crd


def test_a_spec_does_not_change_with_the_status_nor_a_status_with_the_spec(server):
    server.create(JOBS, {**manifest("apart", mapping()["spec"]), "status": {"attempt": 7, "startTime": START}}, dry_run=False)
    _, stored = server.patch_status(JOBS, "apart", {"stage": "Training"}, dry_run=False)
    assert stored["status"]["attempt"] == 0
    assert "startTime" not in stored["status"]
    assert stored["metadata"]["generation"] == 1
    server.delete_all(JOBS)


def test_a_new_job_is_in_progress_to_kstatus(server):
    """Its observedGeneration is there, and is not its generation, before any operator has seen it."""
    _, stored = server.create(JOBS, manifest("new", mapping()["spec"]), dry_run=False)
    assert (stored["metadata"]["generation"], stored["status"]["observedGeneration"]) == (1, 0)
    server.delete_all(JOBS)


STATUS = FineTuneJobStatus(
    stage="Training",
    attempt=2,
    progress=ProgressStatus(step=12, total_steps=87, loss=1.25, tokens_per_second=5432.5, eta="1h12m"),
    checkpoints=CheckpointsStatus(latest=CheckpointStatus(step=10, attempt=2)),
    publication=PublicationStatus(repository="org/model", revision="0123abc"),
)


def test_what_kubectl_shows(control_plane, server):
    server.create(JOBS, manifest("shown", mapping()["spec"]), dry_run=False)
    server.create(JOBS, manifest("unseen", mapping()["spec"]), dry_run=False)
    status, reply = server.patch_status(JOBS, "shown", STATUS.to_json(), dry_run=False)
    assert status == 200, reply
    heads, shown, unseen = (line.split() for line in control_plane.kubectl("get", "ftj", "-n", NAMESPACE).splitlines())
    assert heads == ["NAME", "STAGE", "STEP", "LOSS", "ETA", "ATTEMPT", "AGE"]
    assert shown[:-1] == ["shown", "Training", "12", "1.25", "1h12m", "2"]
    assert unseen[:-1] == ["unseen", "0"]
    heads, shown, _ = (line.split() for line in control_plane.kubectl("get", "ftj", "-n", NAMESPACE, "-o", "wide").splitlines())
    assert heads[7:] == ["MODEL", "TOKENS/S", "CHECKPOINT", "PUBLISHED"]
    assert shown[7:] == ["org/model", "5432.5", "10", "0123abc"]
    assert control_plane.kubectl("get", "ftr", "-n", NAMESPACE) == ""
    server.delete_all(JOBS)


def test_kubectl_explains_every_field(control_plane, server):
    told = control_plane.kubectl("explain", "ftj.spec", "--recursive")
    assert "microBatchSize" in told
    assert "Optimizer steps, instead of epochs" in control_plane.kubectl("explain", "ftj.spec.training.maxSteps")
