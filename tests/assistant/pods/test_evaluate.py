"""The evaluation pod: what it leaves in storage and says, what a second pod doesn't do again, and how it fails."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.assistant.evaluation.small_benchmarks import OLD_VOCABULARY, base_model, write_benchmarks
from tests.assistant.judging.judge_server import KEY, Answer, JudgeServer, Raw, completion, judge_server, longer_wins
from tests.exported_models import ModelWeights, source_model, training_run

from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.evaluation_summary import EvaluationSummary, parse_summary, summary_key
from finetune_api.finetunejob import Evaluation, Gate, Minimum, Publish
from finetune_api.pod_checks import job_json
from finetune_api.pod_result import LARGEST_MESSAGE, PodResult, parse_pod_result
from finetune_api.training_run import TrainingRun
from finetune_assistant.pods.evaluate import evaluated
from finetune_trainer.checkpoints.job_storage import job_checkpoints
from finetune_trainer.checkpoints.store import Piece
from finetune_trainer.model.resolve import folder_revision
from finetune_trainer.pods.pod import Pod, run_stage
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.storage.kept_logs import End
from finetune_trainer.storage.kept_runs import kept_runs, life_of, pieces

STEP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A run that was trained to step 4, with a judge."""

    run: TrainingRun
    judge: JudgeServer
    folder: Path

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def asking_for(self, **evaluation: Any) -> TrainingRun:
        """The run of a job that asks for something else to be measured."""
        spec = self.run.job.spec.model_copy(update={"evaluation": Evaluation.model_validate(evaluation, by_alias=True)})
        return self.run.model_copy(update={"job": self.run.job.model_copy(update={"spec": spec})})

    def everything(self) -> dict[str, Any]:
        """All that a job can ask for."""
        return {
            "tasks": ["truthfulqa_mc2", "arc_challenge"],
            "taskData": str(self.folder / "benchmarks"),
            "numFewshot": 1,
            "limit": 3,
            "judge": {"baseUrl": self.judge.url, "model": "scripted", "limit": 3},
            "samples": {"count": 2, "maxNewTokens": 6},
        }

    def evaluate(self, run: TrainingRun, pod: str, stop: threading.Event | None = None) -> tuple[int, PodResult]:
        """Exit code and result of a pod with a disk of its own."""
        scratch = self.folder / pod
        scratch.mkdir()
        # As the operator gives them: attempts don't read what is measured after them, so it isn't in the frozen run.
        (scratch / "run.json").write_text(self.run.to_json())
        (scratch / "job.json").write_text(job_json(run.job))
        given = Pod(
            scratch=scratch / "disk",
            job_file=scratch / "job.json",
            run_file=scratch / "run.json",
            termination_log=scratch / "termination-log",
        )
        code = run_stage(lambda pod: evaluated(pod, stop or threading.Event()), given)
        text = (scratch / "termination-log").read_text()
        assert len(text.encode()) <= LARGEST_MESSAGE
        result = parse_pod_result(text)
        assert result is not None
        return code, result

    def place(self, run: TrainingRun) -> Path:
        return self.storage / "evaluation" / evaluation_digest(run.identity, run.job)

    def summary(self, run: TrainingRun) -> EvaluationSummary:
        digest = evaluation_digest(run.identity, run.job)
        found = parse_summary((self.storage / summary_key(digest)).read_bytes(), digest)
        assert found is not None
        return found


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    base_model(tmp_path / "base")
    write_benchmarks(tmp_path / "benchmarks")
    with judge_server(longer_wins) as judge:
        yield Trained(run=trained_run(tmp_path), judge=judge, folder=tmp_path)


def trained_run(folder: Path, initialization: str = "pretrained") -> TrainingRun:
    """A run over ./base that has a checkpoint of step 4."""
    base, storage = folder / "base", folder / "storage"
    model = {"name": str(base), "initialization": initialization}
    run = training_run(base, model=model, checkpoints={"storage": str(storage)}, generation={"maxNewTokens": 8})
    run = run.model_copy(update={"model_revision": folder_revision(base)})
    commit(run, folder, seed=8)
    return run


def commit(run: TrainingRun, folder: Path, *, seed: int) -> None:
    """A checkpoint of step 4; another seed, other weights."""
    weights = ModelWeights(source_model(folder / "base", rows=OLD_VOCABULARY + 4, seed=seed))
    store = job_checkpoints(run.job, base=folder, default=folder, secrets=Secrets()).claimed()
    store.commit(STEP, [store.write_part(STEP, 0, [_piece(weights, name) for name in weights.shapes])], {"evaluationLoss": 1.5})


def _piece(weights: ModelWeights, name: str) -> Piece:
    shape = weights.shapes[name]
    size = int(np.prod(shape))
    return Piece(kind="master", name=name, shape=shape, start=0, stop=size, data=weights.read(name, 0, size))


def test_all_that_a_job_asks_for_is_measured_once(trained: Trained, capfd: pytest.CaptureFixture[str]) -> None:
    run = trained.asking_for(**trained.everything())
    code, result = trained.evaluate(run, "pod")
    assert (code, result.outcome) == (0, "Done"), result.message
    found, summary = result.evaluation, trained.summary(run)
    assert found is not None
    assert (found.step, found.loss, found.digest) == (STEP, 1.5, evaluation_digest(run.identity, run.job))
    assert str(found.results).endswith(str(trained.place(run)))
    assert [(one.task, one.metric, one.shots, one.limit, one.documents) for one in found.tasks][:2] == [
        ("truthfulqa_mc2", "acc", 0, 3, 3),
        ("arc_challenge", "acc_norm", 1, 3, 3),
    ]
    assert all(one.value is not None and one.base is not None for one in found.tasks)
    assert found.judge is not None
    assert (found.judge.model, found.judge.prompts) == ("scripted", 3)
    assert found.judge.low <= found.judge.win_rate <= found.judge.high
    # Each pair in both orders; equal answers aren't sent.
    assert len(trained.judge.requests) in (2, 4, 6)
    assert [len(summary.samples), summary.base_model] == [2, "base"], "no path of a machine"
    assert all(sample.base_greedy is not None and sample.base_sampled is not None for sample in summary.samples)
    assert any("by dialogue prompting" in note for note in summary.notes)
    assert str(trained.folder) not in summary.to_json(), "cards show it"
    there = {path.name for path in trained.place(run).iterdir()}
    assert there == {"answers", "judge", "measured", "evaluation.json", "samples.jsonl", "summary.json"}
    numbers = json.loads((trained.place(run) / "evaluation.json").read_text())
    assert [model["model"] for model in numbers["models"]] == ["base", "demo"]
    log = capfd.readouterr().out
    assert '"stage": "evaluation"' in log
    # The key is in no file and no line.
    assert KEY not in log
    assert [path for path in trained.folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []

    asked = len(trained.judge.requests)
    code, again = trained.evaluate(run, "pod-2")
    assert (code, again.evaluation) == (0, found)
    assert len(trained.judge.requests) == asked
    assert not (trained.folder / "pod-2/disk/run/model").exists(), "nothing was exported"


# A pod's job is at a fixed place, where tests write nothing.
IN_A_POD = """
import sys
from dataclasses import replace
from pathlib import Path
from finetune_assistant.pods.__main__ import main
from finetune_trainer.pods.pod import Pod
of_the_operator = Pod.from_environment
Pod.from_environment = classmethod(lambda cls: replace(of_the_operator(), job_file=Path(sys.argv[1])))
sys.exit(main(["evaluate"]))
"""


def test_the_pods_command_keeps_its_log(trained: Trained) -> None:
    run = trained.asking_for(samples={"count": 1, "maxNewTokens": 2})
    (trained.folder / "run.json").write_text(trained.run.to_json())
    (trained.folder / "job.json").write_text(job_json(run.job))
    given = {"FINETUNE_RUN": str(trained.folder / "run.json"), "FINETUNE_SCRATCH": str(trained.folder / "disk"), "HOSTNAME": "pod-1"}
    command = [sys.executable, "-c", IN_A_POD, str(trained.folder / "job.json")]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    storage = DirectoryStorage(trained.storage)
    [kept] = kept_runs(storage)["evaluation"]
    assert kept.name.endswith("-pod-1")
    log = b"".join(pieces(storage, kept.logs["main"])).decode()
    life = life_of(storage, kept, "main")
    assert life.began is not None
    assert life.end == End(outcome="Done", exit_code=0)
    assert '"unit": "requests (base, greedy)"' in log
    assert log.splitlines()[-1].startswith('{"contractVersion":1,"outcome":"Done",')


def test_a_pod_goes_on_where_another_one_was_ended(trained: Trained, capfd: pytest.CaptureFixture[str]) -> None:
    run = trained.asking_for(**trained.everything())
    replies: list[Answer] = []

    def gives_up(messages: Sequence[Mapping[str, str]]) -> Answer:
        replies.append(longer_wins(messages) if len(replies) < 1 else Raw(status=401, body='{"error": {"message": "no"}}'))
        return replies[-1]

    trained.judge.answer = gives_up
    code, result = trained.evaluate(run, "pod")
    assert (code, result.reason, result.permanent) == (2, "InvalidEndpoint", True)
    kept = {path.name: path.read_bytes() for path in (trained.place(run) / "judge/requests").iterdir()}
    assert len(kept) == 1, "the reply that was paid for"
    answers = {path.name: path.read_bytes() for path in (trained.place(run) / "answers").iterdir()}

    trained.judge.answer = longer_wins
    capfd.readouterr()
    before = len(trained.judge.requests)
    code, result = trained.evaluate(run, "pod-2")
    assert (code, result.outcome) == (0, "Done"), result.message
    assert {path.name: path.read_bytes() for path in (trained.place(run) / "answers").iterdir()} == answers
    log = capfd.readouterr().out
    assert "requests (pairs for scripted)" in log
    assert "greedy" not in log, "no model answers anew"
    summary = json.loads((trained.place(run) / "judge/summary.json").read_text())
    assert summary["requests"]["fromCache"] == 1
    assert len(trained.judge.requests) - before == summary["requests"]["sent"]


def test_a_stop_ends_it_and_keeps_what_is_done(trained: Trained) -> None:
    run, stop = trained.asking_for(**trained.everything()), threading.Event()

    def answer(messages: Sequence[Mapping[str, str]]) -> Answer:
        stop.set()
        return longer_wins(messages)

    trained.judge.answer = answer
    code, result = trained.evaluate(run, "pod", stop)
    assert (code, result.reason, result.permanent) == (1, "Interrupted", False)
    assert list((trained.place(run) / "judge/requests").iterdir())
    assert not (trained.place(run) / "summary.json").exists()


@pytest.mark.parametrize(
    ("changes", "code", "reason", "told"),
    [
        ({"tasks": ["arc_chalenge"]}, 2, "UnknownTask", "spec.evaluation.tasks arc_chalenge: there is no task of this name; near it: arc_"),
        ({"taskData": "/nowhere"}, 2, "InvalidData", "spec.evaluation.taskData /nowhere: there is no such folder"),
        ({"judge": {"model": "m", "prompts": "/nowhere.jsonl"}}, 2, "InvalidData", "/nowhere.jsonl"),
        ({"judge": {"model": "m", "apiKeySecret": {"name": "s", "key": "k"}}}, 2, "InvalidSpec", "spec.evaluation.judge.apiKeySecret"),
    ],
)
def test_what_is_wrong_with_the_job_is_told_before_anything_is_exported(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], code: int, reason: str, told: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    ended, result = trained.evaluate(trained.asking_for(**{**trained.everything(), **changes}), "pod")
    assert (ended, result.reason, result.permanent) == (code, reason, True)
    assert told in str(result.message)
    assert not (trained.folder / "pod/disk/run/model").exists()


def test_an_endpoint_that_fails_may_be_tried_again(trained: Trained) -> None:
    quota = json.dumps({"error": {"code": "insufficient_quota", "message": f"no credit for {KEY}"}})
    trained.judge.answer = lambda _messages: Raw(status=429, body=quota)
    code, result = trained.evaluate(trained.asking_for(**trained.everything()), "pod")
    assert (code, result.reason, result.permanent) == (1, "EndpointFailed", False)
    assert "no credit" in str(result.message)
    assert KEY not in str(result.message)


def test_a_budget_that_ends_leaves_the_win_rate_of_what_was_judged(trained: Trained) -> None:
    judge = {"baseUrl": trained.judge.url, "model": "scripted", "limit": 8, "maxTokens": 6000}
    trained.judge.answer = lambda messages: completion(str(longer_wins(messages)), prompt_tokens=900, completion_tokens=100)
    run = trained.asking_for(judge=judge)
    code, result = trained.evaluate(run, "pod")
    assert (code, result.outcome) == (0, "Done"), result.message
    summary = trained.summary(run)
    assert summary.judge is not None
    assert 0 < summary.judge.prompts < 8
    assert summary.judge.tokens <= 6000
    assert any("spec.evaluation.judge.maxTokens is spent" in note for note in summary.notes)
    assert summary.judge.partial
    more = trained.asking_for(judge=judge | {"maxTokens": 100_000})
    assert trained.evaluate(more, "pod-of-a-retry")[1].evaluation == result.evaluation, "it is done, as no gate asks for more"
    gated = more.job.spec.publish.model_copy(update={"gate": Gate(judge_win_rate=Minimum(min=0.99))})
    more = more.model_copy(update={"job": more.job.model_copy(update={"spec": more.job.spec.model_copy(update={"publish": gated})})})
    code, result = trained.evaluate(more, "pod-of-a-gate")
    assert (code, result.outcome) == (0, "Done"), result.message
    assert result.evaluation is not None
    assert result.evaluation.judge is not None
    assert (result.evaluation.judge.prompts, result.evaluation.judge.partial) == (8, None)
    run = trained.asking_for(judge=judge | {"maxTokens": 10})
    shutil.rmtree(trained.place(run))
    code, result = trained.evaluate(run, "pod-2")
    assert (code, result.permanent) == (2, True)
    assert "spec.evaluation.judge.maxTokens=10 isn't enough for one pair; raise it" in str(result.message)


def test_a_base_without_weights_is_not_asked(trained: Trained) -> None:
    whole = trained.everything()
    shutil.rmtree(trained.storage)
    random = replace(trained, run=trained_run(trained.folder, "random"))
    code, result = random.evaluate(random.asking_for(**whole), "pod")
    assert (code, result.reason) == (2, "InvalidSpec")
    assert "spec.evaluation.judge: compares the trained model with its base, which has no weights" in str(result.message)
    run = random.asking_for(**{name: value for name, value in whole.items() if name != "judge"})
    code, result = random.evaluate(run, "pod-2")
    assert (code, result.outcome) == (0, "Done"), result.message
    summary = random.summary(run)
    assert all(task.value is not None and task.base is None for task in summary.tasks)
    assert all(sample.base_greedy is None and sample.base_sampled is None for sample in summary.samples)


def test_what_others_put_into_the_storage_is_not_followed_out_of_the_folder(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained.asking_for(samples={"count": 1, "maxNewTokens": 2})
    listed = DirectoryStorage.list
    outside = f"evaluation/{evaluation_digest(run.identity, run.job)}/../../x"
    monkeypatch.setattr(
        DirectoryStorage, "list", lambda self, prefix="": [(outside, 1)] if prefix.startswith("evaluation/") else listed(self, prefix)
    )
    code, result = trained.evaluate(run, "pod")
    assert (code, result.reason) == (1, "StorageFailed")
    assert "is no file of an evaluation; delete it" in str(result.message)


def rejecting(trained: Trained, after: int) -> None:
    """A judge that refuses the key once it has answered so many requests."""
    replies: list[Answer] = []

    def answer(messages: Sequence[Mapping[str, str]]) -> Answer:
        replies.append(longer_wins(messages) if len(replies) < after else Raw(status=401, body='{"error": {"message": "no"}}'))
        return replies[-1]

    trained.judge.answer = answer


def test_prompts_that_changed_after_a_pod_was_ended_are_answered_anew(trained: Trained) -> None:
    """A file of a volume or a data set of the Hub is another one some day; what its former rows were answered with is nobody's work."""
    prompts = trained.folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Name {word}."}) + "\n" for word in ("a bird", "a tree", "a fish")))
    run = trained.asking_for(judge={"baseUrl": trained.judge.url, "model": "scripted", "prompts": str(prompts)})
    rejecting(trained, after=2)
    code, result = trained.evaluate(run, "pod")
    assert (code, result.reason) == (2, "InvalidEndpoint")
    prompts.write_text("".join(json.dumps({"prompt": f"Name {word}."}) + "\n" for word in ("a bird", "a stone")))
    trained.judge.answer = longer_wins
    code, result = trained.evaluate(run, "pod-2")
    assert (code, result.outcome) == (0, "Done"), result.message
    summary = trained.summary(run)
    assert summary.judge is not None
    assert summary.judge.prompts == 2


def test_replies_without_their_settings_are_used_all_the_same(trained: Trained) -> None:
    """A pod that was killed while it copied for the first time left the replies alone, which were paid for."""
    run = trained.asking_for(judge={"baseUrl": trained.judge.url, "model": "scripted", "limit": 3})
    rejecting(trained, after=2)
    trained.evaluate(run, "pod")
    (trained.place(run) / "judge/run.json").unlink()
    trained.judge.answer = longer_wins
    code, result = trained.evaluate(run, "pod-2")
    assert (code, result.outcome) == (0, "Done"), result.message
    assert json.loads((trained.place(run) / "judge/summary.json").read_text())["requests"]["fromCache"] == 2


def test_a_budget_that_ends_before_a_gate_can_open_is_told_and_raised(trained: Trained) -> None:
    """Figures that are done aren't measured again: a gate that too few pairs keep closed would stay so, whatever the budget."""
    judge = {"baseUrl": trained.judge.url, "model": "scripted", "limit": 8, "maxTokens": 6000}
    trained.judge.answer = lambda messages: completion(str(longer_wins(messages)), prompt_tokens=900, completion_tokens=100)
    gate = Publish.model_validate({"gate": {"judgeWinRate": {"min": 0.99}}}, by_alias=True)

    def run_with(**changes: Any) -> TrainingRun:
        run = trained.asking_for(judge=judge | changes)
        spec = run.job.spec.model_copy(update={"publish": gate})
        return run.model_copy(update={"job": run.job.model_copy(update={"spec": spec})})

    code, result = trained.evaluate(run_with(), "pod")
    assert (code, result.reason, result.permanent) == (2, "InvalidInput", True)
    assert "spec.evaluation.judge.maxTokens=6000 is spent" in str(result.message)
    sent = len(trained.judge.requests)
    code, result = trained.evaluate(run_with(maxTokens=100_000), "pod-2")
    assert (code, result.outcome) == (0, "Done"), result.message
    summary = trained.summary(run_with())
    assert summary.judge is not None
    assert summary.judge.prompts == 8
    assert json.loads((trained.place(run_with()) / "judge/summary.json").read_text())["requests"]["fromCache"] == sent


def test_another_checkpoint_of_the_same_step_is_measured_anew(trained: Trained) -> None:
    """Who deletes the checkpoints and applies the job again gets other weights, and may leave the former figures in the storage."""
    run = trained.asking_for(samples={"count": 1, "maxNewTokens": 8})
    trained.evaluate(run, "pod")
    before = trained.summary(run)
    shutil.rmtree(trained.storage / "checkpoints")
    commit(run, trained.folder, seed=9)
    code, result = trained.evaluate(run, "pod-2")
    assert (code, result.outcome) == (0, "Done"), result.message
    assert trained.summary(run).samples[0].tuned_greedy != before.samples[0].tuned_greedy
    assert trained.summary(run).samples[0].base_greedy == before.samples[0].base_greedy
