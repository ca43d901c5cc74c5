"""Curves in the trackers that a team has: MLflow and Weights & Biases, with the names that Transformers' Trainer gives them.

In: events, and the variables that MLflow's and W&B's own clients read. Out: one run there for one run here, which later attempts go on
with. MLflow is spoken to by its REST API; `wandb` is imported only where it is asked for, since our image doesn't have it. Both work in
threads of their own, and one that fails is left out: curves are worth less than the run.
"""

import base64
import importlib.util
import json
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from finetune_api.errors import InvalidSpec, Problem
from finetune_api.finetunejob import FineTuneJob
from finetune_api.training_run import run_identity
from finetune_trainer.reporting.events import EvaluationDone, Event, Sink, StepDone, StoppedEarly
from finetune_trainer.reporting.metrics import TensorBoardSink, scalars

Environment = Mapping[str, str]
Measured = tuple[int, float, dict[str, float]]  # step, seconds since 1970, value by tag

# What a tracker may take at the end to get what is left.
CLOSE_SECONDS: Final = 60.0
_TIMEOUT_SECONDS: Final = 20.0
_TRIES: Final = 5
_MOST_METRICS: Final = 1000  # of one call of MLflow's log-batch
_IDENTITY_TAG: Final = "finetune.identity"


def check_trackers(job: FineTuneJob, environment: Environment) -> None:
    """Raise InvalidSpec where a tracker that is asked for can't be used with these variables."""
    problems = [problem for name in job.spec.report_to for problem in _problems(name, environment)]
    if problems:
        raise InvalidSpec(problems)


def _problems(name: str, environment: Environment) -> list[Problem]:
    where = "in spec.cpuPods.env, or of this shell with `finetune run`"
    if name == "mlflow" and not environment.get("MLFLOW_TRACKING_URI", "").startswith(("http://", "https://")):
        found = environment.get("MLFLOW_TRACKING_URI")
        told = f"MLFLOW_TRACKING_URI={found} is no server" if found else "mlflow needs the variable MLFLOW_TRACKING_URI"
        return [Problem("spec.reportTo", told, f"set it to http://... or https://..., {where}, or remove mlflow")]
    if name == "wandb" and importlib.util.find_spec("wandb") is None:
        remedy = "name an image with it in spec.cpuPods.image (`pip install wandb`), or remove wandb"
        return [Problem("spec.reportTo", "the Python package wandb isn't installed here", remedy)]
    if name == "wandb" and not environment.get("WANDB_API_KEY") and environment.get("WANDB_MODE") not in ("offline", "disabled"):
        return [
            Problem(
                "spec.reportTo", "wandb needs the variable WANDB_API_KEY", f"set it {where}, set WANDB_MODE to offline, or remove wandb"
            )
        ]
    return []


def trackers(job: FineTuneJob, environment: Environment, folder: Path) -> list[Sink]:
    """A sink for each that spec.reportTo names; `folder` is where TensorBoard's files go, and beside it what W&B keeps."""
    wanted = job.spec.report_to
    made: list[Sink] = [TensorBoardSink(folder)] if "tensorboard" in wanted else []
    if "mlflow" in wanted:
        made.append(Tracker("MLflow", Mlflow(job, environment)))
    if "wandb" in wanted:
        made.append(Tracker("wandb", Wandb(job, environment, folder.parent)))
    return made


def parameters(job: FineTuneJob) -> dict[str, Any]:
    """What a reader compares runs by: the model, and how it was trained."""
    training = job.spec.training.model_dump(mode="json", by_alias=True, exclude_none=True)
    # It may be absent, and is what runs are compared by first.
    training["optimizer"]["learningRate"] = job.spec.training.effective_learning_rate
    return {"model": job.spec.model.name} | dict(_flat(training))


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """
    >>> _flat({"seed": 1, "optimizer": {"beta1": 0.9}})
    [('seed', 1), ('optimizer.beta1', 0.9)]
    """
    return [
        item
        for name, value in values.items()
        for item in (_flat(value, f"{above}{name}.") if isinstance(value, Mapping) else [(f"{above}{name}", value)])
    ]


class Tracker:
    """A sink that gives measurements to a service from a thread of its own. Nothing is sent before the first one.

    When the service fails for good, `record` raises OSError, which leaves the sink out.
    """

    def __init__(self, name: str, service: "Mlflow | Wandb") -> None:
        self._name = name
        self._service = service
        self._queue: SimpleQueue[Measured | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._finished = False

    def record(self, event: Event) -> None:
        """Take a measurement."""
        if self._failure is not None:
            raise OSError(f"{self._name}: {self._failure}")
        if isinstance(event, StoppedEarly):
            self._finished = True
        if not isinstance(event, StepDone | EvaluationDone):
            return
        if isinstance(event, StepDone):
            self._finished = event.step >= event.total_steps
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put((event.step, time.time(), scalars(event)))

    def close(self) -> None:
        """Wait until all of it is there, for a while."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(CLOSE_SECONDS)
            self._thread = None

    def _work(self) -> None:
        try:
            self._service.begin()
            while (taken := self._taken())[1]:
                self._service.log(taken[0])
            self._service.log(taken[0])
            self._service.end(finished=self._finished)
        except Exception as error:  # whatever a service does, the run goes on
            self._failure = error

    def _taken(self) -> tuple[list[Measured], bool]:
        """All that waits, one at least; and whether more may come."""
        found: list[Measured] = []
        while True:
            one = self._queue.get()
            if one is None:
                return found, False
            found.append(one)
            if self._queue.empty():
                return found, True


class Mlflow:
    """A run of an MLflow server, by its REST API 2.0."""

    def __init__(self, job: FineTuneJob, environment: Environment) -> None:
        self._job = job
        self._url = environment.get("MLFLOW_TRACKING_URI", "").rstrip("/")
        self._experiment = environment.get("MLFLOW_EXPERIMENT_NAME") or "Default"
        self._authorization = _authorization(environment)
        self._trust = ssl.create_default_context(cafile=environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)
        self._run = ""

    def begin(self) -> None:
        """Find the run that an earlier attempt made, or make it."""
        experiment = self._experiment_id()
        identity = run_identity(self._job)
        wanted = {"experiment_ids": [experiment], "filter": f"tags.`{_IDENTITY_TAG}` = '{identity}'", "max_results": 1}
        found = self._call("POST", "runs/search", wanted).get("runs") or []
        if found:
            self._run = found[0]["info"]["run_id"]
            self._call("POST", "runs/update", {"run_id": self._run, "status": "RUNNING"})
            return
        tags = [{"key": _IDENTITY_TAG, "value": identity}]
        new = {"experiment_id": experiment, "start_time": _now(), "run_name": self._job.metadata.name, "tags": tags}
        self._run = self._call("POST", "runs/create", new)["run"]["info"]["run_id"]
        told = [{"key": name, "value": str(value)[:500]} for name, value in parameters(self._job).items()]
        self._call("POST", "runs/log-batch", {"run_id": self._run, "params": told[:100]})

    def log(self, measured: list[Measured]) -> None:
        """Send the values, under the names that Transformers' callback for MLflow gives them."""
        metrics = [
            {"key": mlflow_name(tag), "value": value, "timestamp": int(at * 1000), "step": step}
            for step, at, values in measured
            for tag, value in values.items()
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._call("POST", "runs/log-batch", {"run_id": self._run, "metrics": metrics[start : start + _MOST_METRICS]})

    def end(self, *, finished: bool) -> None:
        """Say how it went; another attempt may go on."""
        self._call("POST", "runs/update", {"run_id": self._run, "status": "FINISHED" if finished else "KILLED", "end_time": _now()})

    def _experiment_id(self) -> str:
        query = urllib.parse.urlencode({"experiment_name": self._experiment})
        try:
            return str(self._call("GET", f"experiments/get-by-name?{query}")["experiment"]["experiment_id"])
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return str(self._call("POST", "experiments/create", {"name": self._experiment})["experiment_id"])

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer; what may go better a moment later is tried again."""
        request = urllib.request.Request(
            f"{self._url}/api/2.0/mlflow/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json"} | self._authorization,
        )
        for number in range(1, _TRIES + 1):
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=self._trust) as answer:
                    found: dict[str, Any] = json.load(answer)
                    return found
            except (OSError, json.JSONDecodeError) as error:
                permanent = False
                if isinstance(error, urllib.error.HTTPError):
                    error.close()  # it is an answer, too, with a connection of its own
                    permanent = error.code < 500 and error.code != 429
                if permanent or number == _TRIES:
                    raise
                time.sleep(2.0 ** (number - 1))
        raise AssertionError("the last try returns or raises")


def mlflow_name(tag: str) -> str:
    """
    >>> [mlflow_name(tag) for tag in ("train/loss", "eval/loss", "speed/step_seconds")]
    ['loss', 'eval_loss', 'speed/step_seconds']
    """
    return f"eval_{tag.removeprefix('eval/')}" if tag.startswith("eval/") else tag.removeprefix("train/")


def _authorization(environment: Environment) -> dict[str, str]:
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := environment.get("MLFLOW_TRACKING_USERNAME"):
        both = f"{user}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}
    return {}


def _now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


class Wandb:
    """A run of Weights & Biases, by its own client."""

    def __init__(self, job: FineTuneJob, environment: Environment, folder: Path) -> None:
        self._job = job
        self._project = environment.get("WANDB_PROJECT") or "finetune"
        self._folder = folder
        self._run: Any = None

    def begin(self) -> None:
        """Go on with the run of an earlier attempt, or begin it."""
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._project,
            name=self._job.metadata.name,
            id=run_identity(self._job)[:32],
            resume="allow",
            dir=str(self._folder),
            config=parameters(self._job),
        )
        # As Transformers' callback does, so that both have the same horizontal axis.
        self._run.define_metric("train/global_step")
        self._run.define_metric("*", step_metric="train/global_step", step_sync=True)

    def log(self, measured: list[Measured]) -> None:
        """Give the values to the client, which has a process of its own."""
        for step, _, values in measured:
            self._run.log(values | {"train/global_step": step})

    def end(self, *, finished: bool) -> None:
        """Wait until they are sent."""
        self._run.finish(exit_code=0 if finished else 1)
