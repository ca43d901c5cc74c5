"""What is known before training: the address and key of a judge, prompts, packages."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.assistant.evaluation.small_benchmarks import arc_rows
from tests.assistant.judging.judge_server import KEY, Raw, judge_server
from tests.exported_models import base_folder, training_run

from finetune_api.errors import InvalidData, InvalidEndpoint, InvalidSpec, NotInstalled, UnknownTask
from finetune_api.finetunejob import FineTuneJob
from finetune_assistant.evaluation import tasks
from finetune_assistant.job_evaluation import checks
from finetune_assistant.job_evaluation.asking import GREEDY, JUDGED, SAMPLED, judge_plan, questions
from finetune_assistant.job_evaluation.checks import check_before_preparation, check_evaluation
from finetune_trainer.secrets import Secrets


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return base_folder(tmp_path / "base", "llama")


def asking_for(base: Path, **evaluation: Any) -> FineTuneJob:
    return training_run(base, evaluation=evaluation, generation={"maxNewTokens": 8, "temperature": 0.3}).job


def check(job: FineTuneJob, base: Path, **environment: str) -> list[str]:
    """What is told."""
    told: list[str] = []
    check_evaluation(job, base=base.parent, secrets=Secrets(environment), notice=told.append, has_begun=False)
    return told


def test_nothing_is_looked_at_where_nothing_is_asked_for(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda _name: None)
    assert check(asking_for(base), base) == []


def test_an_endpoint_is_looked_at_before_training(base: Path) -> None:
    with judge_server() as judge:
        job = asking_for(base, judge={"baseUrl": judge.url, "model": "m"})
        assert check(job, base) == [], "a server without a list of models, and without a key"
        judge.on_get = Raw(status=401, body="{}")
        with pytest.raises(InvalidEndpoint, match=r"spec\.evaluation\.judge: .* refuses the key of OPENAI_API_KEY \(401\)") as refused:
            check(job, base, OPENAI_API_KEY=KEY)
        assert KEY not in str(refused.value)
        judge.on_get = Raw(status=403, body="{}")
        [told] = check(job, base, OPENAI_API_KEY=KEY)
        assert told.startswith(f"{judge.url} doesn't let the key of OPENAI_API_KEY list its models (403); if it may not ask them either, ")
        judge.on_get = Raw(status=200, body='{"object": "list", "data": [{"id": "m", "object": "model"}]}')
        assert check(job, base) == []
        judge.on_get = Raw(status=200, body='{"object": "list", "data": [{"id": "other", "object": "model"}]}')
        [told] = check(job, base)
        assert told == f"{judge.url} lists no model m, which spec.evaluation.judge asks after training; it lists 1, such as other"
        for nonsense in ("<html>", "[]", '{"data": 7}', '{"data": [7]}'):
            judge.on_get = Raw(status=200, body=nonsense)
            assert check(job, base) == [], nonsense
        assert judge.requests == [], "no token is spent"
    [told] = check(job, base, OPENAI_API_KEY=KEY)
    assert told.startswith(f"nobody answers at {judge.url} now, where spec.evaluation.judge is asked after training; ")


def test_openai_wants_a_key(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    job = asking_for(base, judge={"model": "m"})
    with pytest.raises(
        InvalidSpec, match=r"spec\.evaluation\.judge\.apiKeySecret: no key is named, and OPENAI_API_KEY is not set; set one"
    ):
        check(job, base)
    plan = judge_plan(job, Secrets({"OPENAI_API_KEY": KEY}), {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})
    assert (plan.settings.base_url, plan.settings.api_key) == ("http://127.0.0.1:1/v1", KEY)
    assert KEY not in repr(plan)


def test_a_key_comes_from_its_secret(base: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets/judge").mkdir(parents=True)
    (tmp_path / "secrets/judge/token").write_text(f"{KEY}\n")
    job = asking_for(base, judge={"baseUrl": "http://127.0.0.1:1/v1", "model": "m", "apiKeySecret": {"name": "judge", "key": "token"}})
    secrets = Secrets({"FINETUNE_SECRETS": str(tmp_path / "secrets"), "OPENAI_API_KEY": "another-key"})
    assert judge_plan(job, secrets).settings.api_key == KEY
    assert secrets.masked(f"a {KEY} and another-key".encode()) == b"a *** and ***"


def test_packages_are_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda _name: None)
    with pytest.raises(NotInstalled, match=r"spec\.evaluation\.judge needs a package .* pip install 'finetune-operator\[assistant\]'"):
        check(asking_for(base, judge={"model": "m"}), base)


def test_prompts_begin_at_the_job_file(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("".join(f'{{"prompt": "{number}?"}}\n' for number in range(9)))
    asked = questions(asking_for(base, judge={"model": "m", "prompts": "mine.jsonl", "limit": 3}, samples={"count": 2}), tmp_path)
    assert [(each.name, len(each.rows), each.sampling.max_new_tokens) for each in asked] == [
        (GREEDY, 2, 256),
        (SAMPLED, 2, 256),
        (JUDGED, 3, 8),
    ]
    assert [row.messages[0].content for row in asked[2].rows] == ["0?", "1?", "2?"]
    assert (asked[0].sampling.greedy, asked[1].sampling.temperature) == (True, 0.3)
    with pytest.raises(InvalidData, match=r"other\.jsonl"):
        questions(asking_for(base, samples={"prompts": "./other.jsonl"}), tmp_path)


def test_of_our_prompts_the_judge_sees_all_kinds(base: Path, tmp_path: Path) -> None:
    [asked] = questions(asking_for(base, judge={"model": "m"}), tmp_path)
    assert len(asked.rows) == 40
    assert {row.fields["kind"] for row in asked.rows} == {"write", "review"}


def before_preparation(job: FineTuneJob, **environment: str) -> list[str]:
    """What is told in a pod that sees neither the evaluation's volumes nor the judge."""
    told: list[str] = []
    check_before_preparation(job, secrets=Secrets(environment), notice=told.append)
    return told


def test_a_preparation_pod_knows_names_and_the_judges_secret(base: Path, tmp_path: Path) -> None:
    assert before_preparation(asking_for(base, tasks=["mmlu", "plots"])) == []
    with pytest.raises(UnknownTask, match=r"spec\.evaluation\.tasks hellaswagg: there is no task of this name; near it: hellaswag"):
        before_preparation(asking_for(base, tasks=["mmlu", "hellaswagg"]))
    job = asking_for(base, judge={"model": "m", "baseUrl": "http://127.0.0.1:1/v1", "apiKeySecret": {"name": "judge", "key": "token"}})
    with pytest.raises(InvalidSpec, match=r"spec\.evaluation\.judge\.apiKeySecret: secret 'judge' has no value for 'token'"):
        before_preparation(job, FINETUNE_SECRETS=str(tmp_path))
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge/token").write_text(KEY)
    [told] = before_preparation(job, FINETUNE_SECRETS=str(tmp_path))
    assert told.startswith("nobody answers at http://127.0.0.1:1/v1 now"), "it may be started later"


def on_volumes(base: Path, place: Path, *, own: bool, **evaluation: Any) -> FineTuneJob:
    """A job with a volume at `place`: of cpuPods, or of the evaluation's pod alone."""
    pod = {"volumes": [{"name": "files", "mountPath": str(place), "persistentVolumeClaim": {"claimName": "files"}}]}
    if own:
        return training_run(base, evaluation=evaluation | {"pod": pod}).job
    return training_run(base, cpuPods=pod, evaluation=evaluation).job


def test_files_on_a_volume_of_cpu_pods_are_looked_at_before_preparation(base: Path, tmp_path: Path) -> None:
    """And those on a volume of the evaluation's pod alone are told of."""
    asked: dict[str, Any] = {"tasks": ["arc_challenge"], "taskData": f"{tmp_path}/tasks"}
    prompts = {"samples": {"prompts": f"{tmp_path}/mine.jsonl"}}
    with pytest.raises(InvalidData, match=r"spec\.evaluation\.taskData .*/tasks: there is no such folder"):
        before_preparation(on_volumes(base, tmp_path, own=False, **asked))
    (tmp_path / "tasks").mkdir()
    with pytest.raises(InvalidData, match=r"no file named like \*arc_challenge_test.* or give its folder as spec\.evaluation\.taskData"):
        before_preparation(on_volumes(base, tmp_path, own=False, **asked))
    with pytest.raises(InvalidData, match=r"mine\.jsonl"):
        before_preparation(on_volumes(base, tmp_path, own=False, **prompts))
    assert before_preparation(on_volumes(base, tmp_path, own=True, **asked, **prompts)) == [
        f"spec.evaluation.{field} is looked at after training only: it is on a volume of spec.evaluation.pod alone"
        for field in (f"taskData={tmp_path}/tasks", f"samples.prompts={tmp_path}/mine.jsonl")
    ]


def test_the_judge_is_asked_before_preparation_unless_its_pod_has_variables_of_its_own(base: Path) -> None:
    with judge_server() as judge:
        judge.on_get = Raw(status=401, body="{}")
        asked: dict[str, Any] = {"judge": {"baseUrl": judge.url, "model": "m"}}
        with pytest.raises(InvalidEndpoint, match=r"refuses the key of OPENAI_API_KEY \(401\)"):
            before_preparation(asking_for(base, **asked), OPENAI_API_KEY=KEY)
        pod = {"env": [{"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "judge", "key": "token"}}}]}
        assert before_preparation(asking_for(base, **asked, pod=pod), OPENAI_API_KEY=KEY) == []


LONG = "a very long question about what a kettle does on a stove while somebody waits for tea to be ready"


def test_evaluation_data_that_is_also_training_data_is_told_before_training(base: Path, tmp_path: Path) -> None:
    """Of tasks and of prompts, by a run that begins; one that goes on has said it, and measures it after training."""
    (tmp_path / "tasks").mkdir()
    for split in ("train", "test"):
        rows = arc_rows(3)
        rows[0]["doc"]["query"] = f"Question: Here is {LONG}, {split}?\nAnswer:"
        (tmp_path / f"tasks/arc_challenge_{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": f"Tell me: {LONG}?"}))
    messages = [{"role": "user", "content": f"{LONG}!"}, {"role": "assistant", "content": "Yes."}]
    (tmp_path / "dialogues.jsonl").write_text(json.dumps({"messages": messages}))
    evaluation = {"tasks": ["arc_challenge"], "taskData": "./tasks", "samples": {"prompts": "./mine.jsonl"}}
    job = training_run(base, dataset={"sources": [{"path": "./dialogues.jsonl"}]}, evaluation=evaluation).job
    of_tasks, of_prompts = check(job, base)
    assert of_tasks.startswith("the training data holds words of arc_challenge: 1 of 3 documents share 13 words in a row with its data")
    assert "dialogues.jsonl row 1: a very long question" in of_tasks
    assert "`finetune data export --decontaminate FILE` writes the data without such rows" in of_tasks
    assert of_prompts.startswith("the training data holds words of mine.jsonl: 1 of 1 documents")
    told: list[str] = []
    check_evaluation(job, base=tmp_path, secrets=Secrets({}), notice=told.append, has_begun=True)
    assert told == []
    (tmp_path / "dialogues.jsonl").unlink()
    assert check(job, base) == [], "who prepares the data says so"


def test_an_image_without_the_harness_says_what_is_not_looked_at(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise NotInstalled("lm-eval")

    monkeypatch.setattr(tasks, "need_harness", absent)
    tasks.own_names.cache_clear()
    [told] = before_preparation(asking_for(base, tasks=["hellaswagg"]))
    assert told == "names in spec.evaluation.tasks are looked at after training only: this image has no lm-eval"
