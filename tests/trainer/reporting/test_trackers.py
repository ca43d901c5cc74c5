"""Trackers of others: names as Transformers' Trainer gives them, one run for all attempts; real MLflow, and W&B's client offline."""

import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.readers.environments import packages

from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import FineTuneJob
from finetune_api.jobfile import parse_job
from finetune_trainer.reporting.events import FanOut, Notice, Resumed, StepDone, evaluation_done
from finetune_trainer.reporting.metrics import TensorBoardSink
from finetune_trainer.reporting.trackers import check_trackers, trackers


def job(*names: str) -> FineTuneJob:
    spec = {"model": {"name": "org/model"}, "dataset": {"sources": [{"path": "org/data"}]}, "reportTo": list(names)}
    return parse_job({"metadata": {"name": "starchat"}, "spec": spec})


def step(number: int, loss: float) -> StepDone:
    numbers = {"learning_rate": 1e-4, "grad_norm": 0.5, "tokens_per_second": 2.0, "seconds": 4.0, "epoch": number / 4}
    return StepDone(step=number, total_steps=4, loss=loss, supervised_tokens=4, tokens=8, memory_bytes=2**30, **numbers)


class Heard:
    """A sink."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def record(self, event: object) -> None:
        if isinstance(event, Notice):
            self.notices.append(event.message)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("names", "variables", "told"),
    [
        ((), {}, ""),
        (("tensorboard",), {}, ""),
        (("mlflow",), {"MLFLOW_TRACKING_URI": "https://mlflow.example.com"}, ""),
        (("mlflow",), {}, "spec.reportTo: mlflow needs the variable MLFLOW_TRACKING_URI; set it to http"),
        (("mlflow",), {"MLFLOW_TRACKING_URI": "file:///tmp/mlruns"}, "MLFLOW_TRACKING_URI=file:///tmp/mlruns is no server"),
        (("wandb",), {"WANDB_API_KEY": "x"}, "the Python package wandb isn't installed here; name an image with it in spec.cpuPods.image"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(names: tuple[str, ...], variables: dict[str, str], told: str) -> None:
    if not told:
        check_trackers(job(*names), variables)
        return
    with pytest.raises(InvalidSpec) as refused:
        check_trackers(job(*names), variables)
    assert told in str(refused.value)


def test_tensorboard_is_a_tracker_like_others(tmp_path: Path) -> None:
    assert [type(sink) for sink in trackers(job("tensorboard"), {}, tmp_path)] == [TensorBoardSink]
    assert trackers(job(), {}, tmp_path) == []


def test_a_server_that_refuses_costs_no_step(tmp_path: Path) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        heard = Heard()
        made = trackers(job("mlflow"), {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.server_address[1]}"}, tmp_path)
        sinks = FanOut([heard, *made])
        deadline = time.monotonic() + 60
        while not heard.notices:
            assert time.monotonic() < deadline
            sinks.record(step(1, 1.0))
            time.sleep(0.02)
        sinks.record(step(2, 1.0))
        sinks.close()
        server.shutdown()
    assert heard.notices == ["Tracker stopped recording: MLflow: HTTP Error 403: Forbidden"]
    del made, sinks
    gc.collect()  # an answer that was left open is told now, and fails this test


# ---- the real ones


def two_attempts(variables: dict[str, str], folder: Path, name: str) -> None:
    """Of one job: the first stops after three steps, the second goes on from two and finishes."""
    for events in (
        [evaluation_done(step=0, epoch=0.0, loss=3.0), step(1, 2.5), step(2, 2.0), step(3, 1.75)],
        [Resumed(step=2, attempt=2), step(3, 1.75), step(4, 1.5), evaluation_done(step=4, epoch=1.0, loss=1.25)],
    ):
        sinks = FanOut(trackers(job(name), variables, folder))
        for event in events:
            sinks.record(event)
        sinks.close()


@pytest.mark.training
@pytest.mark.thorough
def test_mlflow_has_one_run_with_the_names_of_transformers_callback(tmp_path: Path) -> None:
    with mlflow_server(tmp_path) as (uri, folder):
        two_attempts({"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "assistants"}, tmp_path / "tensorboard", "mlflow")
        script = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
runs = client.search_runs([client.get_experiment_by_name("assistants").experiment_id])
keys = runs[0].data.metrics
history = {key: sorted({(m.step, m.value) for m in client.get_metric_history(runs[0].info.run_id, key)}) for key in keys}
print(json.dumps([len(runs), runs[0].info.status, runs[0].info.run_name, runs[0].data.params, history]))
"""
        count, status, name, parameters, history = json.loads(python(folder, script, uri))
    assert (count, status, name) == (1, "FINISHED", "starchat")
    assert history["loss"] == [[1, 2.5], [2, 2.0], [3, 1.75], [4, 1.5]]
    assert history["eval_loss"] == [[0, 3.0], [4, 1.25]]
    assert {"learning_rate", "grad_norm", "epoch"} <= set(history)
    assert (parameters["model"], parameters["optimizer.learningRate"]) == ("org/model", "2e-05")


@pytest.mark.training
def test_wandb_has_the_names_of_transformers_callback(tmp_path: Path) -> None:
    """Offline: what its client would send lies in a file, which its own reader reads."""
    folder = packages("trackers-wandb")
    variables = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(tmp_path)}
    ours = [str(ROOT), str(ROOT / "operator"), str(ROOT / "trainer")]
    script = f"""
import os, sys
sys.path.append({str(folder)!r})
from pathlib import Path
from tests.trainer.reporting.test_trackers import job, two_attempts
from finetune_trainer.reporting.trackers import check_trackers
check_trackers(job("wandb"), os.environ)
two_attempts(dict(os.environ), Path({str(tmp_path / "run/tensorboard")!r}), "wandb")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | variables | {"PYTHONPATH": os.pathsep.join(ours)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2, done.stderr
    read = """
import json, sys
from wandb.proto import wandb_internal_pb2
# A log of LevelDB's kind: a header of seven bytes, then blocks of 32 KiB of records, each with checksum, length and a type that says
# whether it is whole (1) or a first, middle or last part of one (2, 3, 4).
def records(data):
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
        whole += data[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""
found = []
for path in sys.argv[1:]:
    for data in records(open(path, "rb").read()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
        if record.WhichOneof("record_type") == "run":
            found.append({"id": record.run.run_id, "name": record.run.display_name})
print(json.dumps(found))
"""
    found = json.loads(python(folder, read, *map(str, files)))
    assert len({one["id"] for one in found if "id" in one}) == 1
    assert {one["name"] for one in found if "id" in one} == {"starchat"}
    losses = {(one["train/global_step"], one["train/loss"]) for one in found if "train/loss" in one}
    assert losses == {(1, 2.5), (2, 2.0), (3, 1.75), (4, 1.5)}
    assert {(one["train/global_step"], one["eval/loss"]) for one in found if "eval/loss" in one} == {(0, 3.0), (4, 1.25)}
    assert all({"train/learning_rate", "train/grad_norm"} <= set(one) for one in found if "train/loss" in one)


def python(folder: Path, script: str, *arguments: str) -> str:
    """What a script says that finds only these packages beside Python's own."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """Its address on loopback, and where its client is."""
    found = packages("trackers-mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options: dict[str, Any] = {"host": "127.0.0.1", "port": port, "workers": 1, "backend-store-uri": f"sqlite:///{folder}/mlflow.db"}
    command = [sys.executable, "-m", "mlflow", "server", *(f"--{name}={value}" for name, value in options.items())]
    log = folder / "mlflow.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(found)}, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            deadline = time.monotonic() + 300
            while True:
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                with contextlib.suppress(OSError), opener.open(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}", found
        finally:
            os.killpg(process.pid, 15)
