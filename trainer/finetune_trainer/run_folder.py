"""The run folder: what one `finetune run` keeps on this machine, and the lock that lets one process at a time use it.

run.json       the frozen TrainingRun             metrics.jsonl   a line per step and evaluation
job.yaml       the FineTuneJob as it was given    tensorboard/    the same for TensorBoard
prepared/      tokenised data, by fingerprint     report.html     what happened, for a reader
storage/       unless checkpoints.storage is set  model/          the exported model
evaluation/    what was measured after training    adapter/        of a LoRA run: the adapters alone, for PEFT
memory.json    rows a micro-step that fit, where memory ran out
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from finetune_api.errors import InvalidInput, InvalidTrainingRun, RunConflict, StorageFailed
from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.evaluation_summary import EVALUATION_FOLDER, SUMMARY_FILE, EvaluationSummary, parse_summary
from finetune_api.finetunejob import FineTuneJob
from finetune_api.training_run import TrainingRun
from finetune_trainer.files.atomic import write_atomically
from finetune_trainer.files.locks import LockHeld, locked


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside one run folder."""

    path: Path

    @property
    def run_file(self) -> Path:
        """The frozen TrainingRun."""
        return self.path / "run.json"

    @property
    def job_file(self) -> Path:
        """The FineTuneJob as it was given, overrides applied."""
        return self.path / "job.yaml"

    @property
    def origin(self) -> Path:
        """The folder that the job's relative paths begin at; `finetune export` and `finetune publish` read it."""
        return self.path / "origin"

    @property
    def prepared(self) -> Path:
        """Tokenised data, one folder a fingerprint."""
        return self.path / "prepared"

    @property
    def storage(self) -> Path:
        """Where checkpoints go when the job names no storage: a folder of its own, since storage belongs to one run."""
        return self.path / "storage"

    @property
    def models(self) -> Path:
        """Base models that were fetched for this run."""
        return self.path / "base"

    @property
    def metrics(self) -> Path:
        """One JSON object per step and evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        """Traces of steps, by torch's profiler."""
        return self.path / "profile"

    @property
    def memory(self) -> Path:
        """Rows of a micro-step for the next try, after one that ran out of memory, and of which job."""
        return self.path / "memory.json"

    @property
    def report(self) -> Path:
        """The report of the run."""
        return self.path / "report.html"

    def evaluation(self, run: TrainingRun) -> Path:
        """Where what the run asks to be measured after training is kept: a folder a digest."""
        return self.path / EVALUATION_FOLDER / evaluation_digest(run.identity, run.job)

    def summary(self, run: TrainingRun) -> EvaluationSummary | None:
        """What came of it; None where it isn't asked for or isn't done."""
        if not run.job.spec.evaluation.has_stage:
            return None
        try:
            data = (self.evaluation(run) / SUMMARY_FILE).read_bytes()
        except OSError:
            return None
        return parse_summary(data, evaluation_digest(run.identity, run.job))

    @property
    def model(self) -> Path:
        """The exported model, whole."""
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        """The adapters of a LoRA run, for whoever has the base model."""
        return self.path / "adapter"

    def published(self, job: FineTuneJob) -> Path:
        """What the job publishes."""
        return self.adapter if job.spec.publishes_adapter else self.model

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; it is made when absent. The kernel lets go of it however the process ends.

        Raises RunConflict when another process holds it.
        """
        with ExitStack() as lock:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock.enter_context(locked(self.path / ".lock"))
            except OSError as error:
                raise InvalidInput(f"run folder {self.path} can't be used: {error.strerror}; choose another with --run-folder") from error
            except LockHeld as held:
                raise RunConflict(
                    f"run folder {self.path} is in use by process {held.holder}; wait for it, or choose another folder with --run-folder"
                ) from None
            yield

    def frozen_run(self) -> TrainingRun | None:
        """The TrainingRun that was frozen here; None in a new folder, and where there is none. Raises InvalidTrainingRun."""
        try:
            return TrainingRun.from_json(self.run_file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except InvalidTrainingRun as error:
            raise InvalidTrainingRun(f"run folder {self.path}: {error}") from None

    def freeze(self, run: TrainingRun, base: Path) -> None:
        """Write run.json, and beside it the job for people and where its relative paths begin; each at once or not at all.

        Raises StorageFailed when the disk is full.
        """
        job = run.job.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        whole = {"apiVersion": run.job.api_version, "kind": run.job.kind, **job}
        self._write(self.job_file, yaml.safe_dump(whole, sort_keys=False))
        self._write(self.origin, f"{base}\n")
        self._write(self.run_file, run.to_json())

    def _write(self, path: Path, text: str) -> None:
        try:
            write_atomically(path, text)
        except OSError as error:
            raise StorageFailed(f"{path} can't be written: {error.strerror}; make room there, or use --run-folder") from error
