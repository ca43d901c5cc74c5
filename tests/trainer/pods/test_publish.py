"""The publication pod: it exports a checkpoint with no more of the base model than its small files."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from examples.demo.s3_server import S3Server
from safetensors.numpy import save_file
from tests.conftest import BUCKET
from tests.exported_models import ModelWeights, base_folder, source_model, training_run
from tests.trainer.faulty_proxy import Fault, Proxy, faulty_proxy

from finetune_api.errors import InvalidPublication
from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.evaluation_summary import EvaluationSummary, JudgeSummary, summary_key
from finetune_api.finetunejob import Evaluation, FineTuneJob, Gate, Judge, Minimum, Publish, StoragePublication
from finetune_api.pod_checks import job_json
from finetune_api.pod_result import PodResult, parse_pod_result
from finetune_api.training_run import TrainingRun, run_identity
from finetune_trainer.checkpoints.job_storage import job_checkpoints, job_storage, storage_at
from finetune_trainer.checkpoints.store import Piece
from finetune_trainer.model.merged import adapted_model
from finetune_trainer.model.resolve import resolve_model
from finetune_trainer.pods.pod import Pod, run_stage
from finetune_trainer.pods.publish import published
from finetune_trainer.publishing.model_folder import RECORD_NAME, folder_files, read_exported
from finetune_trainer.publishing.place import check_place
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.protocol import Storage

ROWS = 837  # of the tiny tokenizer with four control tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A run that was trained to step 4: base model and checkpoint are in one bucket, behind a proxy."""

    run: TrainingRun
    base: Storage
    proxy: Proxy
    folder: Path
    job: FineTuneJob | None = None  # as it is now; None: as it was frozen

    def publish(self, pod: str) -> tuple[int, PodResult]:
        """Exit code and result of a pod with a disk of its own."""
        run_file, job_file, log = (self.folder / name for name in ("run.json", "job.json", "termination-log"))
        run_file.write_text(self.run.to_json())
        job_file.write_text(job_json(self.job or self.run.job))
        code = run_stage(published, Pod(scratch=self.folder / pod, job_file=job_file, run_file=run_file, termination_log=log))
        result = parse_pod_result(log.read_text())
        assert result is not None
        return code, result


@pytest.fixture
def trained(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    model = base_folder(tmp_path / "base", "llama")
    save_file({"model.embed_tokens.weight": np.zeros((1024, 1024), np.float32)}, model / "model.safetensors")
    with faulty_proxy(s3.endpoint) as proxy:
        settings = {"storage": f"{url}/run", "endpoint": proxy.endpoint}
        publish = {"directory": {"path": str(tmp_path / "published")}}
        run = training_run(model, checkpoints=settings, model={"name": f"{url}/base"}, publish=publish)
        base = storage_at(f"{url}/base", run.job, base=tmp_path, secrets=Secrets())
        for path in model.iterdir():
            base.put_file(path.name, path)
        found = resolve_model(run.job.spec.model, base=tmp_path, cache=tmp_path / "cache", secrets=Secrets(), storage_opener=lambda _: base)
        run = run.model_copy(update={"model_revision": found.revision})
        weights = ModelWeights(source_model(model, rows=ROWS))
        store = job_checkpoints(run.job, base=tmp_path, default=tmp_path, secrets=Secrets()).claimed()
        store.commit(4, [store.write_part(4, 0, [_piece(weights, name) for name in weights.shapes])], {"evaluationLoss": 1.5})
        yield Trained(run=run, base=base, proxy=proxy, folder=tmp_path)


def _piece(weights: ModelWeights, name: str) -> Piece:
    shape = weights.shapes[name]
    size = int(np.prod(shape))
    return Piece(kind="master", name=name, shape=shape, start=0, stop=size, data=weights.read(name, 0, size))


def test_a_checkpoint_is_published_without_the_base_models_weights(trained: Trained, tmp_path: Path) -> None:
    whole = Fault(match=r"HEAD .*/base/model\.safetensors", action="refuse", times=0)  # counts: a file is measured before it is fetched
    trained.proxy.faults.append(whole)
    code, result = trained.publish("pod")
    assert (code, result.outcome) == (0, "Done")
    assert result.publication is not None
    assert (result.publication.step, result.publication.evaluation_loss) == (4, 1.5)
    assert read_exported(tmp_path / "published").step == 4
    assert whole.seen == 0
    assert list((tmp_path / "pod").rglob("model.safetensors")) == [tmp_path / "pod/run/model/model.safetensors"], "the exported one"


def test_an_adapter_alone_is_published_without_the_base_models_weights(trained: Trained, tmp_path: Path) -> None:
    before = trained.run.job.spec
    changed = {
        "training": before.training.model_copy(update={"method": "lora"}),
        "checkpoints": before.checkpoints.model_copy(update={"storage": f"s3://{BUCKET}/{uuid.uuid4().hex}"}),
        "publish": before.publish.model_copy(update={"merge": False}),
    }
    job = trained.run.job.model_copy(update={"spec": before.model_copy(update=changed)})
    run = trained.run.model_copy(update={"job": job, "identity": run_identity(job)})
    adapters = adapted_model(run, tmp_path / "base", reads=False).get_base_model().named_parameters()
    pieces = [
        Piece(kind="master", name=name, shape=tuple(one.shape), start=0, stop=one.numel(), data=np.ones(one.numel(), np.float32))
        for name, one in adapters
        if one.requires_grad
    ]
    store = job_checkpoints(job, base=tmp_path, default=tmp_path, secrets=Secrets()).claimed()
    store.commit(4, [store.write_part(4, 0, pieces)], {"evaluationLoss": 1.5})
    code, result = replace(trained, run=run).publish("pod")
    assert (code, result.outcome) == (0, "Done"), result.message
    assert "adapter_model.safetensors" in folder_files(tmp_path / "published")
    assert not list((tmp_path / "pod").rglob("model.safetensors"))


def test_a_pod_publishes_to_object_storage(trained: Trained) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    spec = trained.run.job.spec.model_copy(update={"publish": Publish(storage=StoragePublication(path=url))})
    run = trained.run.model_copy(update={"job": trained.run.job.model_copy(update={"spec": spec})})
    code, result = replace(trained, run=run).publish("pod")
    assert (code, result.outcome) == (0, "Done")
    assert result.publication is not None
    assert (result.publication.repository, result.publication.step) == (url, 4)
    # Server and keys are those of the checkpoints.
    there = storage_at(url, run.job, base=trained.folder, secrets=Secrets())
    assert {"config.json", "model.safetensors", RECORD_NAME} <= {key for key, _ in there.list()}
    # The same pod again finds all of it there; another job's pod is refused, and so is its preparation.
    assert replace(trained, run=run).publish("pod-2")[0] == 0
    other = run.job.model_copy(update={"metadata": run.job.metadata.model_copy(update={"name": "other"})})
    with pytest.raises(InvalidPublication, match=r"spec\.publish\.storage\.path=s3://.* holds the model of job demo, not of other"):
        check_place(other, base=trained.folder, secrets=Secrets())
    check_place(run.job, base=trained.folder, secrets=Secrets())


def test_another_tokenizer_than_the_runs_is_never_published(trained: Trained, tmp_path: Path) -> None:
    trained.base.put("tokenizer_config.json", b'{"eos_token": "other"}')
    code, result = trained.publish("pod")
    assert (code, result.reason, result.permanent) == (2, "RunConflict", True)
    assert f"has changed since this run was prepared: revision {trained.run.model_revision} then, " in str(result.message)
    assert "put it back" in str(result.message)
    assert not (tmp_path / "published").exists()


def test_a_gate_is_judged_by_the_summary_in_storage(trained: Trained, tmp_path: Path) -> None:
    spec = trained.run.job.spec
    gate = spec.publish.model_copy(update={"gate": Gate(judge_win_rate=Minimum(min=0.6))})
    spec = spec.model_copy(update={"evaluation": Evaluation(judge=Judge(model="m")), "publish": gate})
    # No attempt reads what is measured after it: it isn't in the frozen run.
    job = trained.run.job.model_copy(update={"spec": spec})
    asked, digest = replace(trained, job=job), evaluation_digest(trained.run.identity, job)
    storage = job_storage(job, base=tmp_path, default=tmp_path, secrets=Secrets())

    newest = job_checkpoints(job, base=tmp_path, default=tmp_path, secrets=Secrets()).newest_verified()
    assert newest is not None

    def judged(low: float, step: int = 4, checkpoint: str | None = newest.digest) -> bytes:
        verdict = JudgeSummary(model="m", prompts=20, wins=15, win_rate=0.75, low=low, high=0.9)
        summary = EvaluationSummary(digest=digest, step=step, checkpoint=checkpoint, base_model="base", judge=verdict)
        return summary.to_json().encode()

    refused = "spec.publish.gate.judgeWinRate.min=0.6, and "
    begins = f"{refused}m preferred it to its base on 15 of 20 prompts: the rate's 95 % interval begins at 0.531"
    for number, (content, told) in enumerate(
        [
            (None, f"{refused}no judge compared step 4 with its base"),
            (b"no summary", f"{refused}no judge compared step 4 with its base"),
            (judged(0.7, step=2), f"{refused}no judge compared step 4 with its base"),
            (judged(0.7, checkpoint="another"), f"{refused}no judge compared step 4 with its base"),
            (judged(0.531), begins),
        ]
    ):
        if content is not None:
            storage.put(summary_key(digest), content)
        code, result = asked.publish(f"refused-{number}")
        assert (code, result.reason, result.permanent) == (2, "GateClosed", True)
        assert told in str(result.message)
        assert not (tmp_path / "published").exists()
    storage.put(summary_key(digest), judged(0.61))
    assert asked.publish("passed")[0] == 0
    assert read_exported(tmp_path / "published").step == 4
