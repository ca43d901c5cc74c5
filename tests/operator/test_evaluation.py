"""Evaluation in the life of a job: a Job of its own after training, whose figures go into the status and may close the gate."""

import json
from typing import Any

import pytest

from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.jobfile import parse_job
from finetune_api.pod_result import EvaluationResult, PodResult
from finetune_operator import keys, kinds
from finetune_operator.runtime.api import Invalid

from . import builders
from .fakes import Died, Kubelet, World, failing
from .lives import EVICTED, HUB, prepared
from .test_reconcile import yield_to_operator

Json = dict[str, Any]

ASKED = {"tasks": ["arc_challenge"], "judge": {"model": "judge"}, "samples": {}}
GATE = {"gate": {"judgeWinRate": {"min": 0.6}}}
ARC = {"task": "arc_challenge", "metric": "acc_norm", "value": 0.41, "standardError": 0.02, "base": 0.38, "shots": 25, "documents": 100}


def digest_of(world: World) -> str:
    """What the operator and the pod call the evaluation that the spec asks for."""
    raw = {name: world.job[name] for name in ("apiVersion", "kind", "metadata", "spec")}
    return evaluation_digest(world.status["run"]["identity"], parse_job(raw))


def measured(world: World, *, low: float = 0.7, judge: bool | Json = True, **changes: Any) -> PodResult:
    """What an evaluation pod says when it is done."""
    verdict = {"model": "judge", "winRate": 0.8, "low": low, "high": 0.9, "prompts": 40}
    told: Json = {"step": 10, "loss": 1.25, "digest": digest_of(world), "tasks": [ARC], "results": "s3://bucket/starchat/evaluation/x"}
    told |= {"judge": judge if isinstance(judge, dict) else verdict} if judge else {}
    return PodResult(outcome="Done", evaluation=EvaluationResult.model_validate_json(json.dumps(told | changes), by_alias=True))


def trained(world: World, kubelet: Kubelet, *, evaluation: Json | None = None, **spec: Any) -> None:
    """A job whose training is done, and whose evaluation's Job was made."""
    prepared(world, kubelet, evaluation=ASKED if evaluation is None else evaluation, **({"publish": HUB} | spec))
    kubelet.train("starchat-1")
    world.settle()


def jobs(world: World, part: str) -> list[str]:
    return [name for name in world.names(kinds.JOBS) if part in name]


def test_a_job_is_evaluated_and_then_published(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet, publish=HUB | GATE)
    assert world.condition("Trained")[0] == "True"
    assert world.condition("Evaluated") == ("False", "Evaluating")
    assert world.condition("Published") == ("False", "Waiting")
    assert world.status["stage"] == "Evaluating"
    assert [name[:18] for name in jobs(world, "-evaluate-")] == ["starchat-evaluate-"]
    assert jobs(world, "-publish-") == []
    kubelet.complete("-evaluate-", measured(world))
    world.settle()
    assert world.condition("Evaluated") == ("True", "Evaluated")
    told = (
        "step 10: loss 1.2500 on held-out data, arc_challenge acc_norm 0.410 (base 0.380), judge judge: wins 80 % (70 to 90) of 40 prompts"
    )
    assert world.message("Evaluated") == told
    found = world.status["evaluation"]
    assert (found["step"], found["loss"], found["digest"]) == (10, 1.25, digest_of(world))
    assert (found["tasks"], found["judge"]["low"], found["results"]) == ([ARC], 0.7, "s3://bucket/starchat/evaluation/x")
    assert world.condition("Published") == ("False", "Publishing")
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    assert ("Evaluated", told) in world.events


@pytest.mark.parametrize("evaluation", [{}, {"everyEpochs": 1}])
def test_a_job_that_asks_for_nothing_costs_no_call_more(world: World, kubelet: Kubelet, evaluation: Json) -> None:
    trained(world, kubelet, evaluation=evaluation)
    assert world.condition("Evaluated") == ("True", "NotRequested")
    assert jobs(world, "-evaluate-") == []
    assert len(jobs(world, "-publish-")) == 1
    assert not [read for read in world.api.reads if "evaluate" in read]


def test_a_gate_on_the_judge_refuses_by_the_lower_end_and_is_eased_without_training_or_evaluation(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet, publish=HUB | GATE)
    kubelet.complete("-evaluate-", measured(world, low=0.55))
    world.settle()
    assert world.condition("Failed") == ("True", "GateClosed")
    assert world.condition("Published") == ("False", "GateClosed")
    for words in ("0.800 over 40 prompts", "is 0.550", "spec.publish.gate.judgeWinRate.min is 0.6", "spec.retry"):
        assert words in world.message("Failed")
    assert jobs(world, "-publish-") == []
    evaluations = jobs(world, "-evaluate-")
    world.change(retry=1, publish={"gate": {"judgeWinRate": {"min": 0.5}}})
    world.settle()
    assert world.condition("Published") == ("False", "Publishing")
    assert jobs(world, "-evaluate-") == evaluations, "what was measured isn't measured again, and its log is kept"
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    assert len([call for call in world.api.calls if call.startswith("POST jobs starchat-evaluate-")]) == 1


def test_a_gate_that_comes_later_has_the_judge_asked_on(world: World, kubelet: Kubelet) -> None:
    """Its tokens had ended before the last prompt, which was enough while no gate asked."""
    trained(world, kubelet)
    partial = {"model": "judge", "winRate": 0.8, "low": 0.5, "high": 0.9, "prompts": 4, "partial": True}
    kubelet.complete("-evaluate-", measured(world, judge=partial))
    world.settle()
    assert world.condition("Published") == ("False", "Publishing")
    (former,) = jobs(world, "-evaluate-")
    world.change(publish=GATE)
    world.settle()
    assert world.condition("Failed") == ("True", "GateClosed")
    assert "raise spec.evaluation.judge.maxTokens and spec.retry to have all prompts judged, or lower the gate" in world.message("Failed")
    world.change(retry=1, evaluation={"judge": {"maxTokens": 1_000_000}})
    world.settle()
    assert world.condition("Evaluated") == ("False", "Evaluating")
    (job,) = jobs(world, "-evaluate-")
    assert job != former
    kubelet.complete("-evaluate-", measured(world))
    world.settle()
    assert world.condition("Published") == ("False", "Publishing")
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_the_gate_on_the_loss_takes_that_of_the_evaluated_checkpoint(world: World, kubelet: Kubelet) -> None:
    held_out = {"sources": [{"path": "org/data"}], "evaluation": {"fraction": 0.1}}
    publish = HUB | {"checkpoint": "best", "gate": {"evaluationLoss": {"max": 1.0}}}
    trained(world, kubelet, dataset=held_out, publish=publish, evaluation={"samples": {}})
    kubelet.complete("-evaluate-", measured(world, judge=False, step=5, loss=1.5))
    world.settle()
    assert world.condition("Failed") == ("True", "GateClosed")
    assert "the evaluation loss of step 5 is 1.5000" in world.message("Failed")


def test_figures_stay_when_their_job_is_gone_and_after_a_restart(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    kubelet.complete("-evaluate-", measured(world))
    world.settle()
    world.api.remove(kinds.JOBS, builders.NAMESPACE, jobs(world, "-evaluate-")[0])
    world.restart()
    world.settle()
    assert jobs(world, "-evaluate-") == []
    assert world.condition("Evaluated") == ("True", "Evaluated")


# ---- what makes another evaluation


@pytest.mark.parametrize(
    "change",
    [{"evaluation": {"limit": 5}}, {"evaluation": {"judge": {"model": "other"}}}, {"publish": {"checkpoint": "best"}}],
    ids=str,
)
def test_another_question_is_another_job(world: World, kubelet: Kubelet, change: Json) -> None:
    """Also once the former one is answered, and published half: nothing may be published that tells of the former figures."""
    held_out = {"sources": [{"path": "org/data"}], "evaluation": {"fraction": 0.1}}
    trained(world, kubelet, dataset=held_out)
    (former,) = jobs(world, "-evaluate-")
    kubelet.complete("-evaluate-", measured(world))
    world.settle()
    assert len(jobs(world, "-publish-")) == 1
    world.change(**change)
    world.settle()
    (wanted,) = jobs(world, "-evaluate-")
    assert wanted != former
    assert jobs(world, "-publish-") == []
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_an_evaluation_that_goes_on_is_replaced_when_its_pod_is_another(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    (former,) = jobs(world, "-evaluate-")
    digest = digest_of(world)
    world.change(evaluation={"pod": {"resources": {"requests": {"memory": "8Gi"}}}})
    world.settle()
    (wanted,) = jobs(world, "-evaluate-")
    assert (wanted != former, digest_of(world)) == (True, digest), "it finds what the former one left"


def test_no_two_pods_write_one_folder_of_the_storage(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    pod = kubelet.pod_of(kubelet.named(kinds.JOBS, "-evaluate-"), phase="Running")
    world.change(evaluation={"pod": {"resources": {"requests": {"memory": "8Gi"}}}})
    world.look()
    assert jobs(world, "-evaluate-") == []
    assert world.message("Evaluated") == f"pod {pod['metadata']['name']} of a former evaluation ends first"
    world.settle()
    assert len(jobs(world, "-evaluate-")) == 1


@pytest.mark.parametrize("change", [{"publish": {"hub": {"repository": "org/other"}}}, {"budget": {"stageDeadlineSeconds": 7200}}], ids=str)
def test_what_evaluation_does_not_read_leaves_it_alone(world: World, kubelet: Kubelet, change: Json) -> None:
    trained(world, kubelet)
    former = jobs(world, "-evaluate-")
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-evaluate-"), phase="Running")
    world.change(**change)
    world.settle()
    assert jobs(world, "-evaluate-") == former


def test_evaluation_fields_change_no_run(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    before = world.status["run"]
    world.change(evaluation={"tasks": ["hellaswag"], "pod": {"env": [{"name": "A", "value": "b"}]}})
    world.settle()
    assert world.status["run"] == before


def test_an_evaluation_that_is_wanted_no_longer_goes(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    world.change(evaluation={"tasks": None, "judge": None, "samples": None})
    world.settle()
    assert jobs(world, "-evaluate-") == []
    assert world.condition("Evaluated") == ("True", "NotRequested")
    assert world.condition("Published") == ("False", "Publishing")


def test_one_that_is_changed_and_changed_back_after_it_was_answered_is_answered(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    kubelet.complete("-evaluate-", measured(world))
    world.settle()
    world.change(evaluation={"limit": 5})
    world.settle()
    world.change(evaluation={"limit": None})
    world.settle()
    assert jobs(world, "-evaluate-") == [], "the one in between goes on for nobody"
    assert world.condition("Evaluated") == ("True", "Evaluated")


# ---- failures


def test_a_failure_that_no_gate_asks_about_is_told_and_the_model_is_published(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    kubelet.fail("-evaluate-", builders.failed("EndpointFailed", "the judge answers 503", permanent=False))
    world.settle()
    assert world.condition("Evaluated") == ("False", "EndpointFailed")
    assert "the judge answers 503; the job goes on without its figures: `finetune evaluate`" in world.message("Evaluated")
    assert world.condition("Published") == ("False", "Publishing")
    assert world.status["stage"] == "Publishing"
    assert "EndpointFailed" in [reason for reason, _ in world.events]
    world.api.remove(kinds.JOBS, builders.NAMESPACE, jobs(world, "-evaluate-")[0])
    world.restart()
    world.settle()
    assert jobs(world, "-evaluate-") == [], "none is made again"
    assert world.condition("Evaluated") == ("False", "EndpointFailed")
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    assert world.condition("Evaluated") == ("False", "EndpointFailed")


def test_a_failure_that_the_gate_asks_about_fails_the_job_and_is_retried_alone(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet, publish=HUB | GATE)
    (former,) = jobs(world, "-evaluate-")
    kubelet.fail("-evaluate-", builders.failed("InvalidEndpoint", "the judge refuses the key"))
    world.settle()
    assert world.condition("Failed") == ("True", "InvalidEndpoint")
    assert world.condition("Evaluated") == ("False", "InvalidEndpoint")
    assert "the judge refuses the key; spec.publish.gate.judgeWinRate needs it" in world.message("Failed")
    assert jobs(world, "-publish-") == []
    world.change(retry=1)
    world.settle()
    (again,) = jobs(world, "-evaluate-")
    assert again != former
    kubelet.complete("-evaluate-", measured(world))
    world.settle()
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_an_image_without_the_stage_is_told(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    kubelet.fail("-evaluate-", None)  # python knows no such module: code 1, and no word
    world.settle()
    assert world.condition("Evaluated") == ("False", "EvaluationFailed")
    assert "images from before this stage end so at once: name another in spec.evaluation.pod.image" in world.message("Evaluated")


def test_evictions_again_and_again_end_the_evaluation_and_not_the_job(world: World, kubelet: Kubelet) -> None:
    """Its controller would make pods for ever, so that the Job is deleted, and not made again."""
    trained(world, kubelet)
    job = kubelet.named(kinds.JOBS, "-evaluate-")
    for number in range(1, 5):
        kubelet.pod_of(job, number=number, **EVICTED)
        world.settle()
    assert world.condition("Evaluated") == ("False", "Evicted")
    assert "give spec.evaluation.pod.resources requests" in world.message("Evaluated")
    assert jobs(world, "-evaluate-") == []
    assert world.condition("Published") == ("False", "Publishing")
    world.restart()
    world.settle()
    assert jobs(world, "-evaluate-") == []


def test_its_deadline_is_the_stage_s(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet, budget={"stageDeadlineSeconds": 3600}, publish=HUB | GATE)
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-evaluate-"), phase="Running")
    world.settle()
    world.clock.advance(3700)
    world.settle()
    assert world.condition("Failed") == ("True", "DeadlineExceeded")
    assert "budget.stageDeadlineSeconds" in world.message("Evaluated")
    assert jobs(world, "-evaluate-") == []


def test_a_refused_publication_after_a_failed_evaluation_is_the_publication_s(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    world.api.before = failing(Invalid("denied by policy", status=422, reason="Invalid"), call="POST jobs starchat-publish-")
    kubelet.fail("-evaluate-", builders.failed("UnknownTask", "arc_chalenge is no task"))
    world.settle()
    assert world.condition("Evaluated") == ("False", "UnknownTask")
    assert world.condition("Published") == ("False", "Rejected")


# ---- what pods say is untrusted


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"digest": "0" * 64}, "the pod measured something else"),
        ({"judge": None}, "the pod said nothing of the judge"),
    ],
)
def test_a_result_that_can_not_be_this_evaluation_s_opens_no_gate(world: World, kubelet: Kubelet, lie: Json, words: str) -> None:
    trained(world, kubelet, publish=HUB | GATE)
    kubelet.complete("-evaluate-", measured(world, **lie))
    world.settle()
    assert world.condition("Failed") == ("True", "ResultUnreadable")
    assert words in world.message("Failed")
    assert "digest" not in world.status.get("evaluation", {})


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        '{"outcome":"Done"}',
        '{"outcome":"Done","evaluation":{"step":10,"digest":"x","judge":{"model":"j","winRate":2,"low":2,"high":2,"prompts":1}}}',
        '{"outcome":"Done","evaluation":{"step":10,"digest":"x","judge":{"model":"j","winRate":0.5,"low":0.9,"high":1,"prompts":1}}}',
        '{"outcome":"Done","evaluation":{"step":10,"digest":"x","loss":NaN}}',
    ],
    ids=["text", "nothing measured", "rates above one", "a rate below its interval", "no number"],
)
def test_lies_fail_the_evaluation_and_get_nowhere(world: World, kubelet: Kubelet, text: str) -> None:
    trained(world, kubelet, publish=HUB | GATE)
    kubelet.complete("-evaluate-", text)
    world.settle()
    assert world.condition("Failed") == ("True", "ResultUnreadable")
    assert jobs(world, "-publish-") == []


def test_a_result_that_is_lost_is_measured_again(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    (name,) = jobs(world, "-evaluate-")
    kubelet.complete("-evaluate-", measured(world))
    world.api.remove(kinds.PODS, builders.NAMESPACE, f"{name}-1")
    world.settle()
    assert world.message("Evaluated") == "it is done; its result is awaited"
    world.clock.advance(60)
    world.settle()
    calls = [call for call in world.api.calls if name in call]
    assert calls == [f"POST jobs {name}", f"DELETE jobs {name}", f"POST jobs {name}"]


# ---- who waits for whom


def test_it_waits_for_the_gpus_of_training_where_it_wants_some(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, evaluation=ASKED | {"pod": {"gpus": 1}}, publish=HUB)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    kubelet.report("starchat-1-abcde", outcome="Finished", step=10, totalSteps=10)
    kubelet.rayjob("starchat-1", "Complete", job="SUCCEEDED")
    world.settle()
    assert world.condition("Evaluated") == ("False", "Evaluating")
    assert "gives its GPUs back first" in world.message("Evaluated")
    assert jobs(world, "-evaluate-") == []
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    assert len(jobs(world, "-evaluate-")) == 1


def test_it_waits_for_no_pod_that_a_lost_node_keeps(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, evaluation=ASKED | {"pod": {"gpus": 1}}, publish=HUB)
    kubelet.train("starchat-1")
    kubelet.ray_pod("starchat-1-abcde", 1, keys.WORKER_CONTAINER, deleted=kubelet.timestamp())
    world.settle()
    assert jobs(world, "-evaluate-") == []
    world.clock.advance(61)
    world.settle()
    assert len(jobs(world, "-evaluate-")) == 1


def test_without_gpus_it_waits_for_nobody(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, evaluation=ASKED, publish=HUB)
    kubelet.train("starchat-1")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    assert len(jobs(world, "-evaluate-")) == 1


def test_it_stops_when_the_job_is_suspended_and_goes_on_afterwards(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    (name,) = jobs(world, "-evaluate-")
    world.change(suspend=True)
    world.settle()
    assert jobs(world, "-evaluate-") == []
    assert world.condition("Evaluated") == ("False", "Suspended")
    assert world.condition("Suspended")[0] == "True"
    world.change(suspend=False)
    world.settle()
    assert jobs(world, "-evaluate-") == [name]


def test_kueue_holds_it_in_its_own_queue(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet, evaluation=ASKED | {"pod": {"queueName": "gpus"}}, cpuPods={"queueName": "cpus"})
    job = kubelet.named(kinds.JOBS, "-evaluate-")
    assert job["metadata"]["labels"][keys.QUEUE_LABEL] == "gpus"
    world.api.change(kinds.JOBS, builders.NAMESPACE, job["metadata"]["name"], spec={"suspend": True})
    world.clock.advance(100_000)  # no deadline counts while it is held
    world.settle()
    assert world.condition("Evaluated") == ("False", "Queued")
    assert world.condition("Failed")[0] == "False"


def test_it_is_measured_what_its_gpus_were_held_for(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet, evaluation=ASKED | {"pod": {"gpus": 2}})
    before = world.status["usage"]["gpuHours"]
    job = kubelet.named(kinds.JOBS, "-evaluate-")
    kubelet.complete("-evaluate-", measured(world), bound="2026-11-23T10:00:00Z")
    pod = kubelet.named(kinds.PODS, "-evaluate-")
    pod["spec"]["containers"][0]["resources"] = job["spec"]["template"]["spec"]["containers"][0]["resources"]
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = "2026-11-23T10:30:00Z"
    world.api.put(kinds.PODS, pod)
    world.clock.advance(3600)
    world.settle()
    assert world.status["usage"]["gpuHours"] == pytest.approx(before + 1.0)


def running_on_gpus(world: World, kubelet: Kubelet) -> Json:
    """The evaluation's pod, bound now, with what its Job gives it."""
    job = kubelet.named(kinds.JOBS, "-evaluate-")
    pod = kubelet.pod_of(job, phase="Running", bound=kubelet.timestamp())
    pod["spec"]["containers"][0]["resources"] = job["spec"]["template"]["spec"]["containers"][0]["resources"]
    return world.api.put(kinds.PODS, pod)


@pytest.mark.parametrize("change", [{"evaluation": {"limit": 5}}, {"suspend": True}, {"evaluation": None}], ids=str)
def test_what_an_evaluation_held_that_was_deleted_midway_counts_once(world: World, kubelet: Kubelet, change: Json) -> None:
    trained(world, kubelet, evaluation=ASKED | {"pod": {"gpus": 2}})
    before = world.status["usage"]["gpuHours"]
    pod = running_on_gpus(world, kubelet)
    world.settle()
    (entry,) = world.status["usage"]["evaluationPods"]
    assert (entry["name"], entry["gpus"]) == (pod["metadata"]["name"], 2)
    world.clock.advance(1800)
    world.change(**change)
    world.settle()
    assert pod["metadata"]["name"] not in world.names(kinds.PODS)
    assert world.status["usage"]["gpuHours"] == pytest.approx(before + 1.0)
    assert "evaluationPods" not in world.status["usage"]
    world.clock.advance(1800)
    world.restart()
    world.settle()
    assert world.status["usage"]["gpuHours"] == pytest.approx(before + 1.0)


@pytest.mark.parametrize("gate", [{}, GATE], ids=["no gate", "a gate"])
def test_gpu_hours_end_an_evaluation(world: World, kubelet: Kubelet, gate: Json) -> None:
    trained(world, kubelet, evaluation=ASKED | {"pod": {"gpus": 2}}, publish=HUB | gate)
    world.change(budget={"gpuHours": world.status["usage"]["gpuHours"] + 1})
    running_on_gpus(world, kubelet)
    world.settle()
    world.clock.advance(1790)
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == pytest.approx(10, abs=1)
    assert len(jobs(world, "-evaluate-")) == 1
    world.clock.advance(11)
    world.settle()
    assert world.condition("Evaluated") == ("False", "BudgetExceeded")
    assert jobs(world, "-evaluate-") == []
    if not gate:
        assert "the job goes on without its figures" in world.message("Evaluated")
        assert len(jobs(world, "-publish-")) == 1
        return
    assert world.condition("Failed") == ("True", "BudgetExceeded")
    world.change(retry=1)
    world.settle()
    assert world.condition("Failed") == ("True", "BudgetExceeded"), "nothing is begun with what is used up"
    assert len([call for call in world.api.calls if call.startswith("POST jobs starchat-evaluate-")]) == 1
    world.change(retry=2, budget={"gpuHours": 10_000})
    world.settle()
    assert len(jobs(world, "-evaluate-")) == 1
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_gpu_hours_end_no_evaluation_without_gpus(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    world.change(budget={"gpuHours": world.status["usage"]["gpuHours"] / 2})
    world.settle()
    assert world.condition("Evaluated") == ("False", "Evaluating")


# ---- killed


def evaluated_life(world: World) -> None:
    """From apply to published, with an evaluation that fails, is asked for again, and refuses at first."""
    kubelet = Kubelet(world.api, now=world.clock.now)
    world.submit(publish=HUB | GATE, evaluation=ASKED)
    yield_to_operator(world)
    kubelet.complete("-prepare-", builders.prepared())
    yield_to_operator(world)
    kubelet.train("starchat-1")
    yield_to_operator(world)
    kubelet.fail("-evaluate-", builders.failed("InvalidEndpoint", "the judge refuses the key"))
    yield_to_operator(world)
    world.change(retry=1)
    yield_to_operator(world)
    kubelet.complete("-evaluate-", measured(world, low=0.1))
    yield_to_operator(world)
    world.change(retry=2, publish={"gate": {"judgeWinRate": {"min": 0.1}}})
    yield_to_operator(world)
    kubelet.complete("-publish-", builders.published())
    yield_to_operator(world)


def published_without_figures(world: World) -> None:
    """The same, with an evaluation that is evicted for good, and that no gate asks about."""
    kubelet = Kubelet(world.api, now=world.clock.now)
    world.submit(publish=HUB, evaluation=ASKED)
    yield_to_operator(world)
    kubelet.complete("-prepare-", builders.prepared())
    yield_to_operator(world)
    kubelet.train("starchat-1")
    yield_to_operator(world)
    job = kubelet.named(kinds.JOBS, "-evaluate-")
    for number in range(1, 5):
        kubelet.pod_of(job, number=number, **EVICTED)
    yield_to_operator(world)
    kubelet.complete("-publish-", builders.published())
    yield_to_operator(world)


def end_state(world: World) -> tuple[object, ...]:
    kept = sorted((plural, name) for plural, _, name in world.api.objects if plural != "events")
    told = sorted(reason for reason, _ in world.events)
    conditions = [(c["type"], c["status"], c["reason"]) for c in world.status["conditions"]]
    return kept, told, conditions, world.status["evaluation"], world.status["publication"]


@pytest.mark.parametrize("life", [evaluated_life, published_without_figures], ids=lambda life: life.__name__)
def test_killed_before_or_after_any_call_the_end_is_the_same(life: Any) -> None:
    calm = World()
    life(calm)
    assert calm.condition("Succeeded")[0] == "True"
    wanted, calls = end_state(calm), calm.api.calls
    first = next(number for number, call in enumerate(calls) if "-evaluate-" in call) - 1
    for number in range(first, len(calls)):
        for when in ("before", "after"):
            world = World()

            def die(found: int, call: str, *, fatal: int = number) -> None:
                if found == fatal:
                    raise Died

            setattr(world.api, when, die)
            life(world)
            assert end_state(world) == wanted, (number, when, calls[number])
            assert world.names(kinds.RAYJOBS) == ["starchat-1"]
