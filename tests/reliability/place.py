"""Where local runs are done: an S3 server and a Hub behind lines that can fail, a small Llama, and the run that nobody disturbs.

Every run is the same job, of two workers that are processes of this machine. Only the prefix of its checkpoints and the repository that it
publishes to are its own.
"""

import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from examples.demo.s3_server import S3Server, s3_server
from safetensors.numpy import save_file
from tests.conftest import ROOT, make_bucket
from tests.exported_models import LLAMA, TINY
from tests.reliability.command import Command, Stuck, running
from tests.reliability.line import Line, line_to
from tests.trainer.faulty_proxy import Proxy, faulty_proxy
from tests.trainer.hub_server import HubServer

from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.storage.places import open_storage
from finetune_trainer.storage.s3_client import S3Credentials

BUCKET: Final = "reliability"
BASE: Final = "org/base"
TOTAL_STEPS: Final = 12
INTERVAL_STEPS: Final = 2
FINETUNE: Final = (sys.executable, "-m", "finetune_cli.app")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What must be equal in every run: digests of masters and moments, of the weights, and each step's numbers."""

    state: list[tuple[str, ...]]
    weights: dict[str, Any]
    steps: dict[int, tuple[float, float]]


@dataclass(slots=True, kw_only=True)
class Place:
    """A run folder, its storage and its repository, with what can be done to them."""

    name: str
    folder: Path
    server: S3Server
    hub: HubServer
    s3_line: Line
    s3_proxy: Proxy
    hub_line: Line
    chance: random.Random
    storage: str = ""
    settings: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = FINETUNE
    commands: list[Command] = field(default_factory=list)

    @contextmanager
    def running(self, run_folder: Path | None = None) -> Iterator[Command]:
        """`finetune run`, in this place's run folder if not told another."""
        number = len(self.commands)
        job = self.folder / f"job-{number}.yaml"
        job.write_text(json.dumps(self._job()))
        words = [*self.program, "run", job, "--json", "--run-folder", run_folder or self.folder / "run"]
        environment = {
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
            "HF_ENDPOINT": self.hub_line.endpoint,
            "HF_TOKEN": "hf_write",
            "HF_HOME": str(self.folder / "hub"),
            "TMPDIR": str(self.folder),
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("operator", "trainer", ".")),
        }
        with running(words, environment | self.environment, self.folder / f"errors-{number}") as command:
            self.commands.append(command)
            yield command

    def checkpoints(self) -> CheckpointStore:
        """Read directly: no line and no proxy is between."""
        run = RunFolder(self.folder / "run").frozen_run()
        assert run is not None
        keys = S3Credentials(access_key=self.server.access_key, secret_key=self.server.secret_key)
        endpoint = None if self.storage else self.server.endpoint
        storage = open_storage(self.storage or f"s3://{BUCKET}/{self.name}", endpoint=endpoint, credentials=lambda: keys)
        return CheckpointStore(storage, identity=run.identity, job=run.job.metadata.name)

    def result(self, run_folder: Path | None = None) -> Result:
        """What it came to. Each step's numbers are those that were printed last."""
        last = self.checkpoints().newest_verified()
        assert last is not None, "there is no checkpoint"
        files = json.loads(((run_folder or self.folder / "run") / "model/finetune_export.json").read_text())["files"]
        return Result(
            state=[one.digests for one in last.objects],
            weights={name: file for name, file in files.items() if name.endswith(".safetensors")},
            steps={
                event["step"]: (event["loss"], event["grad_norm"]) for command in self.commands for event in command.of_kind("StepDone")
            },
        )

    @property
    def repository(self) -> str:
        return f"org/{self.name}"

    def publications(self) -> int:
        """How many commits of ours the repository has: the Hub makes the first one itself."""
        there = self.hub.repositories.get(self.repository)
        return len(there.commits) - 1 if there is not None else 0

    def _job(self) -> Mapping[str, Any]:
        """JSON is YAML. `settings` are fields of spec, by their path."""
        spec: dict[str, Any] = {
            "model": {"name": BASE},
            "dataset": {"sources": [{"path": str(ROOT / "tests/data/tiny_dialogues.jsonl")}], "evaluation": {"fraction": 0.1}},
            "training": {
                "maxSteps": TOTAL_STEPS,
                "epochs": None,
                "maxSequenceLength": 128,
                "microBatchSize": 1,
                "globalBatchSize": 16,
                "precision": "fp32",
                "optimizer": {"learningRate": 2e-3},
            },
            "workers": {"device": "cpu", "gpusPerNode": 0, "workersPerNode": 2},
            "checkpoints": {
                "storage": self.storage or f"s3://{BUCKET}/{self.name}",
                "endpoint": None if self.storage else self.s3_line.endpoint,
                "every": {"steps": INTERVAL_STEPS},
            },
            "publish": {"hub": {"repository": self.repository, "private": False}},
        }
        for path, value in self.settings.items():
            *folders, name = path.split(".")
            inner = spec
            for folder in folders:
                inner = inner.setdefault(folder, {})
            inner[name] = value
        return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "llama"}, "spec": spec}


@dataclass(slots=True, kw_only=True)
class Bench:
    """Servers that all runs share, and the run that nobody disturbed."""

    server: S3Server
    hub: HubServer
    hub_line: Line
    s3_line: Line
    s3_proxy: Proxy
    folder: Path
    reference: Result | None = None
    made: int = 0

    @contextmanager
    def place(self, chance: random.Random) -> Iterator[Place]:
        """A new place; nothing of it is left after the block, and what was done to the lines is undone."""
        self.made += 1
        name = f"run-{self.made}"
        folder = self.folder / name
        folder.mkdir()
        try:
            yield Place(
                name=name,
                folder=folder,
                server=self.server,
                hub=self.hub,
                s3_line=self.s3_line,
                s3_proxy=self.s3_proxy,
                hub_line=self.hub_line,
                chance=chance,
            )
        finally:
            self.calm()
            self.hub.repositories.pop(f"org/{name}", None)
            shutil.rmtree(folder, ignore_errors=True)

    def calm(self) -> None:
        """Nothing is wrong with any line or server."""
        for line in (self.s3_line, self.hub_line):
            line.heal()
        self.s3_proxy.faults.clear()
        self.hub.faults.clear()

    def undisturbed(self) -> Result:
        """Made once: a run that nothing happens to."""
        if self.reference is None:
            with self.place(random.Random(0)) as place, place.running() as command:
                if command.end():
                    raise Stuck(f"the undisturbed run failed: {command.said()}")
                self.reference = place.result()
        return self.reference


@contextmanager
def bench() -> Iterator[Bench]:
    """S3, a Hub with a base model, and lines to both, while the block runs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finetune-faults-", ignore_cleanup_errors=True)))
        server = stack.enter_context(s3_server(folder / "s3"))
        make_bucket(server, BUCKET)
        proxy = stack.enter_context(faulty_proxy(server.endpoint))
        hub = HubServer()
        stack.callback(hub.close)
        hub.create(BASE, _llama(folder / "base"))
        s3_line, hub_line = stack.enter_context(line_to(proxy.endpoint)), stack.enter_context(line_to(hub.url))
        hub.url = hub_line.endpoint  # what it tells clients of where files go
        yield Bench(server=server, hub=hub, hub_line=hub_line, s3_line=s3_line, s3_proxy=proxy, folder=folder)


def _llama(folder: Path) -> dict[str, bytes]:
    """The files of a base model of random weights: 0.2 million parameters, 2 MB of masters and moments. Made without torch, in no time."""
    shutil.copytree(TINY, folder)
    width, inner, heads, layers = 64, 96, 4, 2
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = LLAMA | sizes | {"num_key_value_heads": heads, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    words = (config["vocab_size"], width)
    square, wide, narrow = (width, width), (inner, width), (width, inner)
    parts = {"self_attn.q_proj": square, "self_attn.k_proj": square, "self_attn.v_proj": square, "self_attn.o_proj": square}
    parts |= {"mlp.gate_proj": wide, "mlp.up_proj": wide, "mlp.down_proj": narrow}
    norms = [f"model.layers.{layer}.{name}" for layer in range(layers) for name in ("input_layernorm", "post_attention_layernorm")]
    shapes = {f"model.layers.{layer}.{name}.weight": shape for layer in range(layers) for name, shape in parts.items()}
    shapes |= {"model.embed_tokens.weight": words, "lm_head.weight": words}
    numbers = np.random.default_rng(0)
    weights = {name: (numbers.standard_normal(shape) * 0.05).astype(np.float32) for name, shape in shapes.items()}
    weights |= {f"{name}.weight": np.ones(width, dtype=np.float32) for name in (*norms, "model.norm")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return {file.name: file.read_bytes() for file in folder.iterdir()}
