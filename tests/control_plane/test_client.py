"""`FineTuneClient` and the commands about a cluster, on a real API server with the real operator; pods and KubeRay are played."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Finetune, finetune
from tests.conftest import ROOT
from tests.control_plane.played import eventually
from tests.control_plane.stage import Stage, life
from tests.operator import builders

from finetune_api.errors import ClusterFailed, InvalidCluster, InvalidSpec, JobFailed, WaitedTooLong
from finetune_api.keys import API_VERSION, KIND
from finetune_client import FineTuneClient
from finetune_operator import kinds

pytestmark = pytest.mark.control_plane

__all__ = ["finetune"]


@pytest.fixture
def client(stage: Stage) -> FineTuneClient:
    return FineTuneClient(namespace=stage.namespace, kubeconfig=stage.plane.kubeconfig)


@pytest.fixture
def of_the_shell(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster is the one that the shell's kubeconfig names."""
    monkeypatch.setattr("finetune_client.connection.KUBE_CONFIG_DEFAULT_LOCATION", str(stage.plane.kubeconfig))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(stage.plane.kubeconfig))


def job(name: str = builders.NAME, **spec: object) -> dict[str, object]:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": builders.spec_mapping(**spec)}


def test_a_job_from_apply_to_the_end(stage: Stage, client: FineTuneClient) -> None:
    stage.operator()
    assert client.list_jobs() == []
    made = client.apply_job(job(failurePolicy={"backoffSeconds": 1}))
    assert (made.name, made.stage, made.is_finished) == (builders.NAME, "Pending", False)
    seen: list[str] = []
    waits = threading.Thread(
        target=client.wait_for_job_status,
        args=(builders.NAME,),
        kwargs={"polling_interval": 0.1, "callbacks": [lambda j: seen.append(j.stage)]},
    )
    waits.start()
    play(stage)
    waits.join(60)
    assert not waits.is_alive()
    assert seen[-1] == "Succeeded"
    assert "Training" in seen
    done = client.get_job(builders.NAME)
    assert done.is_finished
    assert done.status.attempt == 1
    reasons = [event.reason for event in client.get_job_events(builders.NAME)]
    assert {"Planned", "Prepared", "Succeeded"} <= set(reasons)
    client.delete_job(builders.NAME)
    client.wait_until_deleted(done, polling_interval=0.1)
    assert client.list_jobs() == []


def play(stage: Stage) -> None:
    """Kubelet and KubeRay for a job without trouble."""
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.rayjob("starchat-1")
    stage.kubelet.train("starchat-1")


def test_suspend_resume_and_retry_change_the_spec_and_nothing_else(stage: Stage, client: FineTuneClient) -> None:
    client.apply_job(job())
    before = stage.job["spec"]
    client.suspend_job(builders.NAME)
    assert stage.job["spec"] == before | {"suspend": True}
    client.resume_job(builders.NAME)
    assert stage.job["spec"] == before
    with pytest.raises(InvalidCluster, match="hasn't failed, it is Pending"):
        client.retry_job(builders.NAME)
    stage.operator()
    stage.kubelet.fail("-prepare-", builders.failed(message="row 3 is no JSON"))
    with pytest.raises(JobFailed, match="row 3 is no JSON"):
        client.wait_for_job_status(builders.NAME, polling_interval=0.1, timeout=60)
    client.retry_job(builders.NAME)
    assert stage.job["spec"]["retry"] == 1


def test_apply_again_changes_and_leaves_what_others_set(stage: Stage, client: FineTuneClient) -> None:
    client.apply_job(job())
    stage.change(training={"seed": 7})  # as kubectl edit would
    with pytest.raises(InvalidCluster, match=r"spec\.training\.seed.*--force-conflicts"):
        client.apply_job(job(training={"epochs": 1, "seed": 8}))
    assert client.apply_job(job(training={"epochs": 2})).spec["training"]["seed"] == 7
    assert client.apply_job(job(training={"epochs": 2, "seed": 8}), force=True).spec["training"]["seed"] == 8


def test_a_dry_run_keeps_nothing(stage: Stage, client: FineTuneClient) -> None:
    assert client.apply_job(job(), dry_run=True).name == builders.NAME
    assert stage.names(kinds.FINETUNEJOBS) == []


def test_what_is_wrong_is_told_before_anything_is_sent(stage: Stage, client: FineTuneClient) -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.training\.epoch: there is no such field; did you mean epochs"):
        client.apply_job(job(training={"epoch": 1}))
    assert stage.names(kinds.FINETUNEJOBS) == []


def test_what_only_the_api_server_refuses_names_the_field(stage: Stage, client: FineTuneClient) -> None:
    client.apply_job(job())
    stage.operator()
    play(stage)
    client.wait_for_job_status(builders.NAME, polling_interval=0.1, timeout=60)
    with pytest.raises(InvalidSpec, match=r"spec.*model"):
        client.apply_job(job(model={"name": "org/another"}))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda c: c.get_job("nobody"), "there is no FineTuneJob nobody in namespace"),
        (lambda c: c.delete_job("nobody"), "there is no FineTuneJob nobody"),
        (lambda c: c.suspend_job("nobody"), "there is no FineTuneJob nobody"),
        (lambda c: list(c.get_job_logs("nobody")), "there is no FineTuneJob nobody"),
    ],
)
def test_a_job_that_is_not_there(client: FineTuneClient, call: object, told: str) -> None:
    with pytest.raises(InvalidCluster, match=told):
        call(client)  # type: ignore[operator]


def test_rights_that_are_missing_are_told_in_the_servers_words(stage: Stage) -> None:
    nobody = FineTuneClient(namespace=stage.namespace, kubeconfig=stage.plane.user_kubeconfig(f"nobody-{stage.namespace}"))
    with pytest.raises(InvalidCluster, match=r"finetunejobs.finetune.dev is forbidden.*nobody.*ask for that right"):
        nobody.list_jobs()


def test_a_cluster_that_does_not_answer(stage: Stage, tmp_path: Path) -> None:
    config = yaml.safe_load(stage.plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    away = FineTuneClient(namespace="ml", kubeconfig=tmp_path / "config")
    with pytest.raises(ClusterFailed, match="can't be reached"):
        away.list_jobs()
    begun = time.monotonic()
    with pytest.raises((ClusterFailed, WaitedTooLong)):
        away.wait_for_job_status("any", timeout=0.3, polling_interval=0.1)
    assert time.monotonic() - begun < 20


def test_waiting_has_an_end(stage: Stage, client: FineTuneClient) -> None:
    client.apply_job(job())
    with pytest.raises(WaitedTooLong, match=r"wasn't Succeeded within 0\.3 s; it is Pending"):
        client.wait_for_job_status(builders.NAME, timeout=0.3, polling_interval=0.1)


def test_logs_say_why_there_are_none(stage: Stage, client: FineTuneClient) -> None:
    client.apply_job(job())
    with pytest.raises(InvalidCluster, match="no pod is left that tells of a stage"):
        list(client.get_job_logs(builders.NAME))
    stage.operator()
    stage.kubelet.named(kinds.JOBS, "-prepare-")
    eventually("the preparation's pod", lambda: stage.names(kinds.PODS))
    with pytest.raises(InvalidCluster, match=r"the preparation of FineTuneJob starchat hasn't begun: .*--follow waits"):
        list(client.get_job_logs(builders.NAME, stage="preparation"))
    with pytest.raises(InvalidCluster, match="--attempt 3: FineTuneJob starchat has no such attempt; there are none"):
        list(client.get_job_logs(builders.NAME, stage="training", attempt=3))


def test_many_jobs_come_in_pages(stage: Stage, client: FineTuneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_client.client._PAGE", 2)
    for number in range(5):
        client.apply_job(job(f"job-{number}"))
    assert [found.name for found in client.list_jobs()] == [f"job-{number}" for number in range(5)]
    everywhere = [found for found in client.list_jobs(all_namespaces=True) if found.namespace == stage.namespace]
    assert everywhere == client.list_jobs()


# ---- the command line


def test_commands_of_a_jobs_life(stage: Stage, of_the_shell: None, finetune: Finetune, tmp_path: Path) -> None:
    where = ("-n", stage.namespace)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job()))
    assert finetune("get", *where) == (0, "no FineTuneJobs; `finetune apply JOB.yaml` makes one\n", "")
    code, out, _ = finetune("apply", "job.yaml", "--set", "training.seed=7", *where)
    assert code == 0
    assert out.splitlines() == [
        f"FineTuneJob starchat applied in {stage.namespace}",
        f"watch it with: finetune get starchat -n {stage.namespace} --watch",
    ]
    assert stage.job["spec"]["training"]["seed"] == 7
    stage.operator()
    play(stage)
    code, out, err = finetune("wait", builders.NAME, "--timeout", "60s", *where)
    assert (code, out) == (0, "FineTuneJob starchat is Succeeded\n"), err
    code, out, _ = finetune("get", *where)
    assert [line.split()[:2] for line in out.splitlines()] == [["NAME", "STAGE"], ["starchat", "Succeeded"]]
    assert "10/10" in out
    (row,) = json.loads(finetune("get", builders.NAME, "--json", *where)[1])
    assert (row["name"], row["stage"], row["step"], row["attempt"]) == ("starchat", "Succeeded", 10, 1)
    code, out, _ = finetune("get", "--watch", *where)  # all are finished: one look
    assert (code, out.splitlines()) == (0, ["starchat: Succeeded step 10/10" + out.rstrip("\n").partition("10/10")[2]])
    code, out, _ = finetune("describe", builders.NAME, *where)
    assert code == 0
    for word in ("starchat in", "org/model", "Succeeded", "ATTEMPT", "Finished", "AttemptFinished"):
        assert word in out
    usage = json.loads(finetune("usage", "--json", *where)[1])
    assert [(found["namespace"], found["name"], found["attempts"]) for found in usage["jobs"]] == [(stage.namespace, "starchat", 1)]
    assert usage["gpuHours"] == pytest.approx(usage["namespaces"][stage.namespace])
    code, out, _ = finetune("delete", builders.NAME, "--wait", *where)
    assert (code, out) == (0, "FineTuneJob starchat is deleted\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("get", "nobody"), "there is no FineTuneJob nobody in namespace"),
        (("get", "nobody", "-A"), "--all-namespaces lists all jobs, and nobody is one"),
        (("get", "--context", "elsewhere"), "--context elsewhere: there is no such context in the kubeconfig; use one of"),
        (("wait", "starchat", "--for", "success"), "--for success: there are Evaluated"),
        (("wait", "starchat", "--timeout", "soon"), "--timeout soon: is no time; write it as 90s, 30m or 2h"),
        (("logs", "starchat", "--stage", "preparation", "--attempt", "1"), "--attempt 1 is of training, and --stage preparation has none"),
        (("dashboard", "nobody"), "there is no FineTuneJob nobody"),
        (("get", "./nowhere"), "./nowhere: there is no metrics.jsonl"),
        (("apply", "job.yaml"), "has 2 problems"),
    ],
)
def test_wrong_words(stage: Stage, of_the_shell: None, finetune: Finetune, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job(training={"epoch": 1, "seeds": 3})))
    code, out, err = finetune(*words, "-n", stage.namespace)
    assert (code, out) == (2, ""), err
    assert told in err


def test_one_wrong_file_of_two_sends_none(stage: Stage, of_the_shell: None, finetune: Finetune, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(job("good")))
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(job("bad", dataset={"sources": [{"path": "./rows.jsonl"}]})))
    code, _, err = finetune("apply", "good.yaml", "bad.yaml", "-n", stage.namespace)
    assert code == 2
    assert "bad.yaml: spec.dataset.sources[0].path" in err
    assert stage.names(kinds.FINETUNEJOBS) == []


def test_a_failed_job_is_watched_to_its_end(stage: Stage, of_the_shell: None, finetune: Finetune) -> None:
    stage.submit()
    stage.operator()
    stage.kubelet.fail("-prepare-", builders.failed(message="row 3 is no JSON"))
    code, out, _ = finetune("get", builders.NAME, "--watch", "-n", stage.namespace)
    assert code == 0
    assert out.splitlines()[-1].startswith("starchat: Failed: ")
    assert "row 3 is no JSON" in out.splitlines()[-1]
    code, out, _ = finetune("retry", builders.NAME, "-n", stage.namespace)
    assert (code, out) == (0, "FineTuneJob starchat is tried again at the stage that failed\n")


def test_a_life_with_a_failed_attempt_is_described(stage: Stage, of_the_shell: None, finetune: Finetune) -> None:
    stage.operator()
    life(stage)
    code, out, _ = finetune("describe", builders.NAME, "-n", stage.namespace)
    assert code == 0
    assert "Failed (charged)" in out
    assert "loss is nan" in out


def test_the_page_about_it(stage: Stage, of_the_shell: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """The Python of docs/client.md, line by line, and every command that it shows has these options."""
    page = (ROOT / "docs/client.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job()))
    code = code.replace('"ml"', repr(stage.namespace)).replace("my-assistant", builders.NAME)
    stage.operator()
    playing = threading.Thread(target=play, args=[stage])
    playing.start()
    exec(compile(code, "docs/client.md", "exec"), {})
    playing.join()
    printed = capsys.readouterr().out
    assert "Succeeded" in printed
    assert "AttemptFinished" in printed
    for line in re.findall(r"^\$ finetune ([^#\n]*)", page, flags=re.MULTILINE):
        for words in line.split(" && finetune "):
            command, *rest = words.split()
            shown = subprocess.run(
                [sys.executable, "-m", "finetune_cli.app", command, "--help"], capture_output=True, text=True, check=True
            )
            assert [word for word in rest if word.startswith("-") and word not in shown.stdout] == [], words
