"""The NetworkPolicy of a job: made when the operator is told its rules, before the first pod; and only then."""

from tests.operator.builders import NAMESPACE, owner
from tests.operator.resources.manifests import plain_job, templates

from finetune_operator import kinds
from finetune_operator.resources.network_policy import network_policy
from finetune_operator.settings import NetworkRules

from .fakes import Kubelet, World
from .lives import running

RULES = NetworkRules(
    ingress=({"from": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"port": 8265, "protocol": "TCP"}]},),
    egress=({"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},),
)
OWN_PODS = {"podSelector": {"matchLabels": {"finetune.dev/job": "starchat"}}}


def test_only_the_jobs_own_pods_and_what_the_rules_name() -> None:
    spec = network_policy(owner("starchat"), RULES)["spec"]
    assert spec["podSelector"] == OWN_PODS["podSelector"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == [{"from": [OWN_PODS]}, *RULES.ingress]
    assert spec["egress"] == [{"to": [OWN_PODS]}, *RULES.egress]


def test_it_selects_every_pod_of_the_job() -> None:
    selected = network_policy(owner("starchat"), RULES)["spec"]["podSelector"]["matchLabels"]
    for word, template in templates(plain_job()).items():
        assert selected.items() <= template["metadata"]["labels"].items(), word


def test_it_is_there_before_the_first_pod() -> None:
    world = World(job_network_policy=RULES)
    world.submit()
    world.settle()
    made = [call for call in world.api.calls if call.startswith("POST") and "events" not in call]
    assert made[0] == "POST networkpolicies starchat-finetune"
    assert made[1].startswith("POST jobs starchat-prepare-")


def test_no_rules_no_policy_and_no_call(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    assert [call for call in world.api.calls if "networkpolicies" in call] == []


def test_one_call_a_job_until_its_attempt_runs() -> None:
    world = World(job_network_policy=RULES)
    running(world, Kubelet(world.api, now=world.clock.now))
    assert [call for call in world.api.calls if "networkpolicies" in call] == ["POST networkpolicies starchat-finetune"]


def test_a_later_attempt_has_the_rules_of_today_and_the_policy_that_somebody_deleted() -> None:
    world = World(job_network_policy=RULES)
    kubelet = Kubelet(world.api, now=world.clock.now)
    running(world, kubelet)
    world.api.change(kinds.NETWORK_POLICIES, NAMESPACE, "starchat-finetune", spec={"egress": [{}]})
    _next_attempt(world)
    assert world.api.of(kinds.NETWORK_POLICIES)[0]["spec"] == network_policy(owner("starchat"), RULES)["spec"]
    world.api.remove(kinds.NETWORK_POLICIES, NAMESPACE, "starchat-finetune")
    _next_attempt(world)
    assert len(world.api.of(kinds.NETWORK_POLICIES)) == 1


def _next_attempt(world: World) -> None:
    """Somebody deletes the attempt's RayJob, and the job goes on."""
    for name in world.names(kinds.RAYJOBS):
        world.api.remove(kinds.RAYJOBS, NAMESPACE, name)
    attempt = world.status["attempt"]
    for _ in range(20):
        world.settle()
        world.clock.advance(60)
        if world.status["attempt"] > attempt and world.names(kinds.RAYJOBS):
            return
    raise AssertionError(world.status)
