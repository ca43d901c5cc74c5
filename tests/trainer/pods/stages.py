"""The stages of one job as the commands that its pods run, in folders of this machine."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.finetunejob import FineTuneJob
from finetune_api.plan import plan
from finetune_api.pod_result import PodResult, parse_pod_result
from finetune_api.training_run import TrainingRun, run_identity
from finetune_trainer.pods.pod import Pod


@dataclass(frozen=True)
class Stages:
    """One job's files, as a pod would have them."""

    folder: Path
    environment: dict[str, str]

    def pod(self) -> Pod:
        return Pod(
            scratch=self.folder / "scratch",
            job_file=self.folder / "job.json",
            run_file=self.folder / "run.json",
            termination_log=self.folder / "termination-log",
        )

    def result(self) -> PodResult:
        found = parse_pod_result((self.folder / "termination-log").read_text())
        assert found is not None
        return found

    def freeze(self, job: FineTuneJob) -> None:
        """The run, as the operator makes it of what preparation said."""
        found = self.result().preparation
        assert found is not None
        run = TrainingRun(
            job=job,
            identity=run_identity(job),
            model_revision=found.model_revision,
            model_shape=found.model_shape,
            vocabulary=found.vocabulary,
            data=found.data,
            plan=plan(job, found.model_shape, found.data),
        )
        (self.folder / "run.json").write_text(run.to_json())

    @contextlib.contextmanager
    def training(self) -> Iterator["subprocess.Popen[str]"]:
        """The driver's command; ended with the block."""
        environment = self.environment | {"FINETUNE_RUN": str(self.pod().run_file), "FINETUNE_SCRATCH": str(self.pod().scratch)}
        command = [sys.executable, "-m", "finetune_trainer.pods", "train"]
        with (self.folder / "train.err").open("ab") as errors:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


def lines(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    """Events in the log of the driver."""
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                yield found
