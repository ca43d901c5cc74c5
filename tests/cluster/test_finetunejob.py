"""`kubectl apply` of a FineTuneJob on a real cluster: real KubeRay, real pods, a real S3 server, a Hub over HTTP."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from tests.assistant.evaluation.small_benchmarks import TRUTHFULQA, base_model
from tests.assistant.judging.judge_server import KEY as JUDGE_KEY
from tests.assistant.judging.judge_server import judge_server, longer_wins
from tests.cluster.operator import BUCKET, HUB_TOKEN, Jobs, most_of_a_node, node_of
from tests.conftest import REAL_FILES, ROOT, Tiny
from tests.testcluster.any_cluster import AnyCluster
from tests.testcluster.cluster import Cluster
from tests.trainer.hub_server import HubServer

from finetune_client import FineTuneClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


# ---- a whole life

# The secret part of a key that no server knows.
WRONG_KEY = "wrong-7c1f0d2a94e8"
TINY_MODEL = {"name": f"s3://{BUCKET}/base/tiny", "initialization": "random"}
# What a user of the published model types.
ANSWER = """
import sys
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = snapshot_download(sys.argv[1], revision=sys.argv[2])
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
question = [{"role": "user", "content": "What is a mutex?"}]
prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=8, min_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1]:]
print(len(answer), repr(tokenizer.decode(answer)))
"""


def test_the_first_sample_is_prepared_trained_across_nodes_and_published(
    operator: AnyCluster, hub: HubServer, namespace: str, tiny: Tiny, tmp_path: Path
) -> None:
    """The whole life of the README's first `kubectl apply`, on two nodes of two processes; then all that a user and an auditor look at."""
    data = REAL_FILES / "oasst1_en_trees.jsonl"
    jobs = Jobs.ready(operator, namespace, data if data.exists() else tiny.dialogues)
    name = jobs.apply_sample(
        "finetunejob",
        model=TINY_MODEL,
        dataset__sources=[{"path": f"s3://{BUCKET}/data/{jobs.data}", "limit": 200}],
        training__epochs=None,
        training__maxSteps=3,
        workers__nodes=2,
        workers__device="cpu",
        workers__gpusPerNode=0,
        workers__workersPerNode=2,
    )
    jobs.wait_for(name, "Prepared", seconds=300)
    jobs.wait_until_trains(name, attempt=1)
    assert len({pod["spec"]["nodeName"] for pod in jobs.ray_pods(name, "worker")}) == 2, "one worker pod a node"
    if isinstance(operator, Cluster):  # on whose nodes the image is as if it had been pulled
        ran = jobs.get(name)["status"]["run"]["imageThatRan"]
        assert ran.partition("@sha256:")[0] == operator.trainer_image
        assert {pod["spec"]["containers"][0]["image"] for pod in jobs.ray_pods(name)} == {ran}, "a tag may be moved"
    logs = operator.kubectl("logs", f"--namespace={namespace}", f"--selector=finetune.dev/job={name}", "--all-containers", "--tail=-1")
    client = FineTuneClient(namespace=namespace, kubeconfig=operator.kubeconfig)
    assert_has_a_dashboard(client, name)
    followed = list(client.get_job_logs(name, follow=True))
    assert any('"StepDone"' in line and '"step": 3' in line for line in followed), followed[-20:]

    told = operator.kubectl(
        "wait", f"finetunejob/{name}", "--for=condition=Succeeded", "--timeout=600s", f"--namespace={namespace}", timeout_seconds=610
    )
    assert told.strip() == f"finetunejob.finetune.dev/{name} condition met", jobs.told(name)
    status = jobs.get(name)["status"]
    assert [attempt["outcome"] for attempt in status["attempts"]] == ["Finished"]
    assert status["checkpoints"]["latest"]["step"] == 3
    assert status["publication"]["repository"].endswith(f"org/{name}")

    # Two ranks on each of two nodes hold a quarter of every tensor each: no step is done without the network between them.
    parts = [key for key in jobs.stored(name) if key.startswith("checkpoints/step-00000003/")]
    assert sorted(key.rsplit("/", 1)[1].partition(".")[0] for key in parts) == ["manifest", *(f"rank-0000{rank}" for rank in range(4))]

    published = hub.repositories[f"org/{name}"].at("main")
    assert published is not None
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= published.files.keys()
    assert status["publication"]["revision"] == published.oid
    assert answer_of(hub, f"org/{name}", published.oid, tmp_path).split()[0] == "8", "tokens of an answer"

    table = operator.kubectl("get", "ftj", name, "-o=wide", f"--namespace={namespace}").splitlines()
    assert "STAGE" in table[0], table
    assert "Succeeded" in table[1], table
    assert (
        operator.kubectl("get", "events", f"--namespace={namespace}", "--field-selector=involvedObject.kind=FineTuneJob").count("\n") >= 4
    )

    jobs.wait_until_no_ray_pods(name)
    kept = list(jobs.kept_logs(name).items())
    assert {who.split("/")[1] for who, _ in kept} == {"preparation", "training", "publication"}
    names = {who.split("/")[3].removesuffix("-stderr") for who, _ in kept}
    of_ray = {name for name in names if name.startswith("ray-")}
    assert names - of_ray == {"main", "driver", *(f"rank-{rank}" for rank in range(4)), "metrics.jsonl", "report.html"}
    assert {"ray-gcs_server", "ray-raylet"} <= of_ray
    assert any('"StepDone"' in text and "/driver/" in who for who, text in kept)
    assert_no_secret(jobs, logs + "".join(text for _, text in kept) + "".join(followed))


def assert_has_a_dashboard(client: FineTuneClient, name: str) -> None:
    """`finetune dashboard`: Ray's own answer through the forwarded port, with the token and not without."""
    with client.dashboard(name) as found:
        assert client.dashboard_is_there(found)
        asked = urllib.request.Request(f"{found.url}/api/version", headers={"Authorization": f"Bearer {found.token}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert "ray_version" in json.load(answer)
        with pytest.raises(urllib.error.HTTPError, match=r"40[13]"):
            urllib.request.urlopen(f"{found.url}/api/jobs/", timeout=60)


def assert_no_secret(jobs: Jobs, logs: str = "", *others: str) -> None:
    """Nothing of a Secret is anywhere in the namespace but in the Secret, nor in the operator's log, in `logs`, or in those of pods now.

    `others`: values of Secrets that the test made itself.
    """
    ours = ("finetunejobs", "finetunereports", "jobs", "pods", "configmaps", "events", "serviceaccounts", "roles", "rolebindings")
    everything = json.dumps(jobs.objects(*ours, "rayjobs", "rayclusters", "services", "leases"))
    logs += jobs.cluster.kubectl("logs", "--namespace=finetune-system", "--selector=app.kubernetes.io/name=finetune-operator", "--tail=-1")
    for pod in jobs.objects("pods"):
        where = (pod["metadata"]["name"], f"--namespace={jobs.namespace}")
        if pod["status"]["phase"] != "Pending":  # one that waits for a Secret has no log
            logs += jobs.cluster.kubectl("logs", *where, "--all-containers", "--ignore-errors", "--tail=-1")
    for secret in (HUB_TOKEN, WRONG_KEY, jobs.cluster.s3.secret_key, *others):
        assert secret not in everything
        assert secret not in logs


def answer_of(hub: HubServer, repository: str, revision: str, folder: Path) -> str:
    """What the model says that the Hub has, to somebody who has nothing but Transformers."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_TOKEN": HUB_TOKEN, "NO_PROXY": "*", "no_proxy": "*"}
    command = [sys.executable, "-c", ANSWER, repository, revision]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- evaluation


def test_a_gate_refuses_and_once_eased_the_model_is_published_without_another_training_or_evaluation(
    operator: AnyCluster, hub: HubServer, namespace: str, jobs: Jobs, tmp_path: Path
) -> None:
    """Benchmarks from a volume, a judge over HTTP with a key of its own, samples: figures in status, storage and card. Then it serves."""
    base = base_model(tmp_path / "base")  # one that has weights, which a judge compares with
    for path in sorted(base.iterdir()):
        operator.s3.client().upload_file(str(path), BUCKET, f"base/weights/{path.name}")
    operator.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "benchmarks", "namespace": namespace},
            "data": {"TruthfulQA.csv": TRUTHFULQA},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "judge", "namespace": namespace}, "stringData": {"token": JUDGE_KEY}},
    )
    with judge_server(longer_wins, host=str(urlsplit(operator.hub_url).hostname)) as judge:
        jobs.apply(
            "judged",
            model={"name": f"s3://{BUCKET}/base/weights"},
            training__maxSteps=3,
            workers__nodes=1,
            generation={"maxNewTokens": 8},
            evaluation={
                "tasks": ["truthfulqa_mc2"],
                "taskData": "/benchmarks",
                "limit": 2,
                "judge": {"baseUrl": judge.url, "model": "scripted", "apiKeySecret": {"name": "judge"}, "limit": 4},
                "samples": {"count": 2, "maxNewTokens": 8},
                "pod": {"volumes": [{"name": "benchmarks", "mountPath": "/benchmarks", "configMap": {"name": "benchmarks"}}]},
            },
            publish__gate={"judgeWinRate": {"min": 0.9}},  # of four prompts, no win rate is as sure
        )
        failed = jobs.wait_for("judged", "Failed", seconds=900)
        assert failed["reason"] == "GateClosed", jobs.told("judged")
        assert "spec.publish.gate.judgeWinRate.min is 0.9" in failed["message"], failed
        refused, asked = jobs.get("judged")["status"], len(judge.requests)
        assert asked > 0, "the judge was asked"
        assert set(judge.keys) == {f"Bearer {JUDGE_KEY}"}
        made = batch_jobs(jobs, "-evaluate-")
        assert len(made) == 1
        assert batch_jobs(jobs, "-publish-") == {}

        found = refused["evaluation"]
        (task,) = [one for one in found["tasks"] if one["metric"] == "acc"]
        assert (task["task"], task["limit"], task["documents"]) == ("truthfulqa_mc2", 2, 2), found
        assert {"value", "base"} <= task.keys()
        assert (found["judge"]["model"], found["judge"]["prompts"], found["step"]) == ("scripted", 4, 3)
        assert found["judge"]["low"] < 0.9
        place = f"evaluation/{found['digest']}"
        assert found["results"] == f"s3://{BUCKET}/{namespace}/judged/{place}"
        stored = set(jobs.stored("judged"))
        assert {f"{place}/{name}" for name in ("summary.json", "evaluation.json", "samples.jsonl")} <= stored
        assert [key for key in stored if key.startswith(f"{place}/judge/")]

        jobs.patch("finetunejob", "judged", retry=1, publish={"gate": {"judgeWinRate": {"min": 0.0}}})
        succeeded = ("wait", "finetunejob/judged", "--for=condition=Succeeded", "--timeout=600s", f"--namespace={namespace}")
        operator.kubectl(*succeeded, timeout_seconds=610)
        assert len(judge.requests) == asked, "nobody is asked twice"
    status = jobs.get("judged")["status"]
    assert status["evaluation"] == found
    assert [attempt["number"] for attempt in status["attempts"]] == [1], "nothing is trained again"
    assert batch_jobs(jobs, "-evaluate-") == made, "nor measured"
    card = hub.files("org/judged")["README.md"].decode()
    assert "`truthfulqa_mc2`" in card
    assert "The judge `scripted`" in card
    assert {who.split("/")[1] for who in jobs.kept_logs("judged")} == {"preparation", "training", "evaluation", "publication"}
    assert_no_secret(jobs, "".join(jobs.kept_logs("judged").values()) + card, JUDGE_KEY)

    reply = served(operator, namespace, "org/judged")
    assert reply["model"].partition("@")[0] == "my-assistant"  # Transformers' server adds a revision
    assert (reply["usage"]["completion_tokens"] > 0, reply["choices"][0]["message"]["role"]) == (True, "assistant"), reply


_ASKS = """
from openai import OpenAI
client = OpenAI(base_url="http://my-assistant:8000/v1", api_key="none", max_retries=0, timeout=60)
question = [{"role": "user", "content": "Who are you?"}]
print(client.chat.completions.create(model="my-assistant", messages=question, max_tokens=8, temperature=0).model_dump_json())
"""


def served(cluster: AnyCluster, namespace: str, repository: str) -> dict[str, Any]:
    """What the published model answers behind the sample's Deployment and Service, to OpenAI's client in another pod."""
    deployment, service = yaml.safe_load_all((ROOT / "manifests/samples/serving/assistant.yaml").read_text(encoding="utf-8"))
    for manifest in (deployment, service):
        manifest["metadata"]["namespace"] = namespace
    template = deployment["spec"]["template"]["spec"]
    (server,) = template["containers"]
    template |= {"runtimeClassName": cluster.runtime_class} if cluster.runtime_class else {}
    server |= {
        "image": cluster.trainer_image,
        "imagePullPolicy": "IfNotPresent",
        "command": [repository if part == "your-name/my-assistant" else part for part in server["command"]],
        "env": [*server["env"], {"name": "HF_ENDPOINT", "value": cluster.hub_url}],
        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
    }
    cluster.apply(deployment, service)
    rollout = ("rollout", "status", "deployment/my-assistant", "--timeout=300s", f"--namespace={namespace}")
    cluster.kubectl(*rollout, timeout_seconds=310)
    asks = {key: value for key, value in server.items() if not key.endswith("Probe")} | {"command": ["python", "-c", _ASKS]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "asks", "namespace": namespace},
        "spec": {**template, "restartPolicy": "Never", "containers": [asks]},
    }
    cluster.apply(pod)
    done = ("wait", "pod/asks", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s", f"--namespace={namespace}")
    cluster.kubectl(*done, timeout_seconds=130)
    reply: dict[str, Any] = json.loads(cluster.kubectl("logs", "asks", f"--namespace={namespace}"))
    return reply


def batch_jobs(jobs: Jobs, part: str) -> dict[str, str]:
    """Names and uids of the Jobs that have that in their name."""
    metadata = [one["metadata"] for one in jobs.objects("jobs")]
    return {one["name"]: one["uid"] for one in metadata if part in one["name"]}


# ---- stops


# Enough steps that a job is still at work when somebody stops it; no checkpoint but those of stops and of the end.
LONG: dict[str, Any] = {
    "training__maxSteps": 40,
    "checkpoints__every": {"steps": 1000},
    "publish": None,
}


@pytest.mark.platform
def test_a_job_that_is_suspended_and_deleted_loses_no_step(jobs: Jobs) -> None:
    """Suspended, deleted and applied again, it goes on where its former life ended. Nothing of that is charged."""
    jobs.apply("long", **LONG)
    step = jobs.wait_until_trains("long", attempt=1)
    jobs.patch("finetunejob", "long", suspend=True)
    jobs.wait_for("long", "Suspended", seconds=240)
    assert jobs.objects("rayjobs") == []
    committed = assert_committed(jobs, "long", attempt=1, outcome="Stopped", since=step)
    jobs.delete("finetunejob", "long")
    jobs.wait_until_no_ray_pods("long")

    jobs.apply("long", **LONG)
    assert_went_on(jobs, "long", ["Finished"])
    assert jobs.get("long")["status"]["attempts"][0]["firstStep"] == committed, "a step was lost"


@pytest.mark.platform
def test_whoever_takes_its_pods_away_it_commits_and_loses_no_step(operator: AnyCluster, jobs: Jobs) -> None:
    """Its RayJob is suspended, as Kueue does, and deleted; then the node of a worker is drained, if it is one of our own."""
    steps = 150  # so many that a quiet machine is not done before the drain
    jobs.apply("long", **LONG | {"training__maxSteps": steps})
    step = jobs.wait_until_trains("long", attempt=1)
    jobs.patch("rayjob", "long-1", suspend=True)
    assert_committed(jobs, "long", attempt=1, outcome="Preempted", since=step)
    jobs.wait_until_no_ray_pods("long")
    jobs.wait_until_told("long", ["Queued", "RayJob long-1 is suspended by others"])
    jobs.patch("rayjob", "long-1", suspend=False)

    step = jobs.wait_until_trains("long", attempt=2)
    jobs.delete("rayjob", jobs.get("long")["status"]["attempts"][1]["rayJob"]["name"])  # the first one's, which went on
    assert_committed(jobs, "long", attempt=2, outcome="Deleted", since=step)

    if drains := isinstance(operator, Cluster):
        step = jobs.wait_until_trains("long", attempt=3)
        workers, heads = ({node_of(pod) for pod in jobs.ray_pods("long", kind)} for kind in ("worker", "head"))
        (drained,) = workers - heads
        try:
            operator.kubectl("drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=200s", timeout_seconds=210)
            assert_committed(jobs, "long", attempt=3, outcome="Preempted", since=step)
        finally:
            operator.kubectl("uncordon", drained)

    assert_went_on(jobs, "long", ["Preempted", "Deleted", *(["Preempted"] if drains else []), "Finished"], steps=steps)


def assert_went_on(jobs: Jobs, name: str, outcomes: list[str], *, steps: int = 40) -> None:
    """The attempts ended so, one where the next began, uncharged, and every step was done once in all lives of the job."""
    jobs.wait_for(name, "Succeeded")
    status = jobs.get(name)["status"]
    attempts = status["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == outcomes
    assert [attempt["firstStep"] for attempt in attempts[1:]] == [attempt["lastStep"] for attempt in attempts[:-1]], "a step was lost"
    assert status["usage"]["chargedFailures"] == 0
    assert jobs.measured_steps(name) == list(range(1, steps + 1)), "every step once"


# The newest checkpoint is never far.
OFTEN: dict[str, Any] = LONG | {"checkpoints__every": {"steps": 5}}


@pytest.mark.platform
def test_a_worker_that_dies_without_warning_costs_no_step(jobs: Jobs) -> None:
    """Its pod is deleted with no time to say anything. Who hears of it first decides, uncharged: its own hook, which still commits and ends
    the attempt, or the driver, whose workers start again in the same one."""
    jobs.apply("mourner", **OFTEN)
    jobs.wait_for_checkpoint("mourner", since=5)
    before, killed = time.monotonic(), name_of(jobs.ray_pods("mourner", "worker")[1])
    jobs.cluster.kubectl("delete", "pod", killed, f"--namespace={jobs.namespace}", "--force", "--grace-period=0")
    told = jobs.wait("mourner", lambda status: has_ended_or_restarted(status["attempts"][0]))["status"]["attempts"][0]
    print(f"told {time.monotonic() - before:.0f} s after its worker's pod: {told}")
    restarted = "outcome" not in told
    if restarted:
        assert told["restarts"]["charged"] == 0, jobs.told("mourner")
    else:
        assert told["outcome"] in ("Preempted", "NodeLost"), jobs.told("mourner")
        assert killed in told["message"], told
        jobs.wait_until_trains("mourner", attempt=2)
        print(f"first new step after {time.monotonic() - before:.0f} s")
    assert_cost_no_step(jobs, "mourner", attempts=1 if restarted else 2)


def has_ended_or_restarted(attempt: dict[str, Any]) -> bool:
    return "outcome" in attempt or attempt.get("restarts", {}).get("count", 0) > 0


@pytest.mark.platform
def test_a_node_that_dies_without_warning_costs_no_step(own_cluster: Cluster, jobs: Jobs) -> None:
    """It is gone with its kubelet and all that it runs. The attempt ends by itself, uncharged, and what it held elsewhere is given back."""
    jobs.apply("mourner", **OFTEN)
    jobs.wait_for_checkpoint("mourner", since=5)
    heads = {node_of(pod) for pod in jobs.ray_pods("mourner", "head")}
    lost = next(node for node in own_cluster.nodes if node.name not in heads)
    before = time.monotonic()
    own_cluster.lose(lost)
    try:
        own_cluster.kubectl("wait", f"node/{lost.name}", "--for=condition=Ready=Unknown", "--timeout=120s", timeout_seconds=130)
        not_ready = time.monotonic()
        print(f"not ready after {not_ready - before:.0f} s")
        ended = jobs.wait_until_ended("mourner", 1)["status"]["attempts"][0]
        print(f"the attempt ended {time.monotonic() - before:.0f} s after its node: {ended}")
        assert ended["outcome"] == "NodeLost", jobs.told("mourner")
        assert lost.name in ended["message"], ended
        cluster = ended["rayJob"]["cluster"]

        def held() -> list[str]:
            """Pods of the attempt on nodes that are there."""
            pods = [pod for pod in jobs.ray_pods("mourner") if pod["metadata"]["labels"].get("ray.io/cluster") == cluster]
            return [name_of(pod) for pod in pods if node_of(pod) != lost.name]

        jobs.wait_while(held, seconds=120 - (time.monotonic() - not_ready))
        print(f"GPUs given back {time.monotonic() - not_ready:.0f} s after the node was not ready")
    finally:
        before = time.monotonic()
        own_cluster.bring_back(lost)
    jobs.wait_until_trains("mourner", attempt=2)
    print(f"first new step {time.monotonic() - before:.0f} s after the node was started again")
    assert_cost_no_step(jobs, "mourner", attempts=2)


def assert_cost_no_step(jobs: Jobs, name: str, *, attempts: int) -> None:
    """The last of so many attempts finishes the job; nothing was charged, and every attempt's steps count."""
    jobs.wait_for(name, "Succeeded")
    status = jobs.get(name)["status"]
    outcomes = [attempt["outcome"] for attempt in status["attempts"]]
    assert (len(outcomes), outcomes[-1]) == (attempts, "Finished"), "nothing was tried in vain"
    assert status["usage"]["chargedFailures"] == 0
    assert jobs.measured_steps(name) == list(range(1, 41)), "every step once"


@pytest.mark.platform
def test_two_jobs_that_fit_one_at_a_time_both_finish(jobs: Jobs) -> None:
    """Each wants most of both nodes, all of it at once, and nobody helps. Who can't have all in time gives back what it has, uncharged."""
    for name in ("one", "other"):
        jobs.apply(
            name,
            training__maxSteps=2,
            workers__resources={"requests": {"cpu": "100m", "memory": most_of_a_node(jobs)}},
            workers__startDeadlineSeconds=120,
            publish=None,
        )
    for name in ("one", "other"):
        jobs.wait_for(name, "Succeeded", seconds=900)
    attempts = {name: jobs.get(name)["status"]["attempts"] for name in ("one", "other")}
    waited = [one for made in attempts.values() for one in made[:-1]]
    assert {(one["outcome"], one.get("charged", False)) for one in waited} <= {("NotStarted", False)}, waited
    assert [made[-1]["outcome"] for made in attempts.values()] == ["Finished", "Finished"]
    jobs.wait_until_no_ray_pods("one", "other")


def assert_committed(jobs: Jobs, name: str, *, attempt: int, outcome: str, since: int) -> int:
    """The attempt ended so, and in storage there is a checkpoint of the last step that it did, not older than `since`: which step."""
    status = jobs.wait_until_ended(name, attempt)["status"]
    ended = next(one for one in status["attempts"] if one["number"] == attempt)
    assert (ended["outcome"], ended.get("charged", False)) == (outcome, False), jobs.told(name)
    step = status["checkpoints"]["latest"]["step"]
    assert since <= step == ended["lastStep"], jobs.told(name)
    assert f"checkpoints/step-{step:08d}/" in " ".join(jobs.stored(name)), jobs.stored(name)
    return int(step)


def name_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


# ---- GPUs

# Of config.json of bigcode/starcoderbase, what its shape is read from.
STARCODERBASE = {
    "architectures": ["GPTBigCodeForCausalLM"],
    "model_type": "gpt_bigcode",
    "n_layer": 40,
    "n_embd": 6144,
    "n_inner": 24576,
    "n_head": 48,
    "n_positions": 8192,
    "vocab_size": 49152,
    "multi_query": True,
    "activation_function": "gelu",
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def test_gpus_are_taken_by_the_node_and_missing_ones_are_told(own_cluster: Cluster, jobs: Jobs, tiny: Tiny) -> None:
    """Nodes that say they have GPUs get the 2 x 8 sample's pods. A worker that was given a GPU and sees none says what to do."""
    for node in own_cluster.nodes:
        own_cluster.advertise_gpus(node, 8)
    jobs.upload("starcoderbase/config.json", json.dumps(STARCODERBASE).encode())
    jobs.upload("starcoderbase/tokenizer.json", tiny.tokenizer.read_bytes())
    dialogues = tiny.dialogues.read_bytes().splitlines(keepends=True)
    jobs.upload("chats/train.jsonl", b"".join(dialogues[8:]))
    jobs.upload("chats/test.jsonl", b"".join(dialogues[:8]))
    name = jobs.apply_sample(
        "starchat-alpha-2x8",
        model__name=f"s3://{BUCKET}/data/starcoderbase",
        model__initialization="random",  # its weights are 31 GB
        model__tokenSecret=None,
        dataset__sources=[{"path": f"s3://{BUCKET}/data/chats", "format": "messages"}],
    )
    one_gpu = {"workers__nodes": 1, "workers__device": "auto", "workers__gpusPerNode": 1, "workers__workersPerNode": None}
    jobs.apply("blind", **one_gpu, failurePolicy={"maxFailures": 0}, publish=None)

    def placed(status: dict[str, Any]) -> bool:
        return len([pod for pod in jobs.ray_pods(name, "worker") if node_of(pod)]) == 2

    status = jobs.wait(name, placed)["status"]
    pods = jobs.ray_pods(name)
    jobs.delete("finetunejob", name)  # before sixteen ranks look for their GPUs on two cores
    assert status["plan"]["worldSize"] == 16
    assert {pod["metadata"]["labels"]["ray.io/node-type"]: gpus_of(pod) for pod in pods} == {"head": None, "worker": "8"}
    assert len({node_of(pod) for pod in pods if gpus_of(pod)}) == 2, "one a node"

    failed = jobs.wait_for("blind", "Failed")
    assert "were given GPUs and see none; check the NVIDIA driver" in failed["message"], failed
    assert "or set spec.workers.device: cpu" in failed["message"], failed
    # Also those that waited for their head: they don't stay for their grace period.
    jobs.wait_until_no_ray_pods(name, "blind")


def gpus_of(pod: dict[str, Any]) -> str | None:
    """GPUs that the pod's first container, which is Ray's, asks for."""
    limit: str | None = pod["spec"]["containers"][0]["resources"].get("limits", {}).get("nvidia.com/gpu")
    return limit


# ---- wrong input

# A model of 70 billion parameters on one 40 GB card.
TOO_LARGE = {
    "workers": {"nodes": 1, "gpusPerNode": 1, "accelerator": "nvidia-a100-40gb"},
    "model__shape": {
        "architecture": "LlamaForCausalLM",
        "layers": 80,
        "hiddenSize": 8192,
        "intermediateSize": 28672,
        "attentionHeads": 64,
        "keyValueHeads": 8,
        "headSize": 128,
        "vocabularySize": 32000,
        "positions": 4096,
        "parameters": 68_976_648_192,
    },
}
BAD_ROW = b'{"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]}\n{"messages": "not a list"}\n'


WRONG: dict[str, tuple[dict[str, object], list[str]]] = {
    "no-secret": ({"checkpoints__credentialsSecret": {"name": "absent"}}, ["Secret absent", "make what is missing"]),
    "wrong-key": (
        {"checkpoints__credentialsSecret": {"name": "wrong"}},
        ["InvalidStorage", "refuses the access key", "correct spec.checkpoints.credentialsSecret"],
    ),
    "no-s3": ({"checkpoints__endpoint": "http://127.0.0.1:1"}, ["127.0.0.1:1", "spec.checkpoints.endpoint"]),
    "no-bucket": ({"checkpoints__storage": "s3://missing-bucket/x"}, ["'missing-bucket'", "create it or correct the name"]),
    "bad-row": (
        {"dataset__sources": [{"path": f"s3://{BUCKET}/data/bad.jsonl"}]},
        ["InvalidData", "data/bad.jsonl row 2", "correct them, or raise maxInvalidRows"],
    ),
    "too-large": (TOO_LARGE, ["GiB"]),
}


def test_wrong_input_ends_in_a_condition_and_no_training_pod(jobs: Jobs) -> None:
    """A Secret, bucket or endpoint that isn't there, a key that is wrong, a row that is no dialogue, a model that can't fit.

    Each is told with its remedy, and no RayJob is made.
    """
    jobs.upload("bad.jsonl", BAD_ROW)
    wrong = jobs.cluster.s3.secret("wrong", jobs.namespace)
    jobs.cluster.apply(wrong | {"stringData": {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": WRONG_KEY}})
    for name, (changes, _) in WRONG.items():
        jobs.apply(name, **changes)
    for name, (_, words) in WRONG.items():
        jobs.wait_until_told(name, words)
    assert jobs.condition("bad-row", "Prepared")["status"] == "False"
    assert jobs.objects("rayjobs") == []
    assert [pod for pod in jobs.objects("pods") if pod["metadata"]["labels"].get("finetune.dev/stage") == "training"] == []
    assert_no_secret(jobs)
