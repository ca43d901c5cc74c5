"""A node's files: fetched once for all of its processes, at the run's revision, whatever was killed before."""

import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.demo.s3_server import S3Server
from safetensors.numpy import save_file
from tests.conftest import BUCKET
from tests.exported_models import base_folder, training_run
from tests.trainer.faulty_proxy import Fault, Proxy, faulty_proxy
from tests.trainer.hub_server import HubServer

from finetune_api.errors import RunConflict, StorageFailed, TrainingFailed
from finetune_api.finetunejob import BaseModelSpec
from finetune_api.training_run import TrainingRun
from finetune_trainer.model.resolve import folder_revision, resolve_model
from finetune_trainer.pods.nodes import MODEL_CACHE_ENV, PodPlaces
from finetune_trainer.pods.prepared_objects import upload_prepared
from finetune_trainer.preparation.store import write_store
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.places import open_storage
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.storage.s3_client import S3Credentials
from finetune_trainer.training.places import Places

NAME = "f" * 64  # of the run that tests use
IN_A_PROCESS = """
import dataclasses, json, sys
from finetune_api.training_run import TrainingRun
from finetune_trainer.pods.nodes import PodPlaces
places = PodPlaces(sys.argv[1]).here(TrainingRun.from_json(open(sys.argv[2]).read()), weights=True)
print(json.dumps(dataclasses.asdict(places)))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Storage behind a proxy that counts, with prepared data and a base model, and a node's scratch folder."""

    storage: Storage
    base: Storage  # the model's part of it
    model: Path  # as it is in storage
    scratch: Path
    run: TrainingRun
    proxy: Proxy

    def here(self, run: TrainingRun | None = None, *, weights: bool = True) -> Places:
        return PodPlaces(str(self.scratch)).here(run or self.run, weights=weights)

    def process(self, run: TrainingRun | None = None) -> "subprocess.Popen[str]":
        """A rank, as far as this goes."""
        file = self.scratch.with_name(f"run-{uuid.uuid4().hex}.json")
        file.write_text((run or self.run).to_json())
        return subprocess.Popen([sys.executable, "-c", IN_A_PROCESS, str(self.scratch), str(file)], stdout=subprocess.PIPE, text=True)

    def counting(self, request: str) -> Fault:
        """Counts the requests that match, and does nothing to them."""
        counter = Fault(match=request, action="refuse", times=0)
        self.proxy.faults.append(counter)
        return counter


def write_model(folder: Path, **numbers: float) -> Path:
    """A base model with weights of 4 MiB, all 0 but its last number and the one in the middle, if they are given."""
    base_folder(folder, "llama")
    weights = np.zeros((1024, 1024), np.float32)
    weights[-1, -1], weights[512, 512] = numbers.get("last", 0.0), numbers.get("middle", 0.0)
    save_file({"model.embed_tokens.weight": weights}, folder / "model.safetensors")
    return folder


def revision(storage: Storage, cache: Path) -> str:
    """As a preparation finds it: no weight is read."""
    found = resolve_model(
        BaseModelSpec(name="s3://any/base"),
        base=Path(),
        cache=cache,
        secrets=Secrets({}),
        storage_opener=lambda _: storage,
        fetches_weights=False,
    )
    return found.revision


def put_model(storage: Storage, folder: Path) -> None:
    for path in folder.iterdir():
        storage.put_file(f"base/{path.name}", path)


@pytest.fixture
def world(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    credentials = S3Credentials(access_key=s3.access_key, secret_key=s3.secret_key)
    storage = open_storage(url, endpoint=s3.endpoint, credentials=lambda: credentials)
    with write_store(tmp_path / "prepared", NAME) as writer:
        writer.append("train", np.arange(6, dtype=np.uint32), np.ones(6, np.uint8), np.array([4, 2]), 2, [("a.jsonl", 1), ("a.jsonl", 2)])
    upload_prepared(storage, tmp_path / "prepared" / NAME)
    model = write_model(tmp_path / "model")
    put_model(storage, model)
    with faulty_proxy(s3.endpoint) as proxy:
        checkpoints = {"storage": url, "endpoint": proxy.endpoint, "credentialsSecret": {"name": "s3"}}
        run = training_run(model, checkpoints=checkpoints)
        base = open_storage(f"{url}/base", endpoint=s3.endpoint, credentials=lambda: credentials)
        run = with_model(run, f"{url}/base", revision(base, tmp_path / "looked-at"))
        yield World(storage=storage, base=base, model=model, scratch=tmp_path / "scratch", run=run, proxy=proxy)


def with_model(run: TrainingRun, name: str, revision: str) -> TrainingRun:
    """The run with another base model."""
    value: dict[str, Any] = json.loads(run.to_json())
    value["job"]["spec"]["model"]["name"] = name
    return TrainingRun.from_json(json.dumps(value | {"modelRevision": revision}))


def contents(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_processes_of_a_node_fetch_once(world: World) -> None:
    data, weights = world.counting(r"GET .*/train\.ids\.bin"), world.counting(r"GET .*/model\.safetensors")
    ranks = [world.process() for _ in range(3)]
    found = [json.loads(rank.communicate()[0]) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert found[0] == found[1] == found[2]
    assert (found[0]["base"], found[0]["storage"]) == (str(world.scratch), str(world.scratch / "storage"))
    assert contents(found[0]["model"]) == contents(world.model)
    assert Path(found[0]["prepared"]) == world.scratch / "prepared" / NAME
    assert (data.seen, weights.seen) == (1, 1)


def test_where_a_checkpoint_has_all_values_no_weights_are_fetched(world: World) -> None:
    """Their header is read where it is; a start that needs them after all finds the rest and fetches them."""
    weights = world.counting(r"GET .*/model\.safetensors")
    without = world.here(weights=False)
    small = {name: data for name, data in contents(world.model).items() if name != "model.safetensors"}
    assert (without.weights, contents(without.model)) == (False, small)
    assert world.here(weights=False) == without
    assert weights.sent == 100_000  # what is read first of a file
    whole = world.here()
    assert (whole.weights, contents(whole.model)) == (True, contents(world.model))
    assert weights.sent == 100_000 + (world.model / "model.safetensors").stat().st_size
    assert world.here(weights=False).model == whole.model


def test_where_a_checkpoint_has_all_values_the_hub_sends_no_weights(world: World, hub: HubServer) -> None:
    hub.create("org/base", contents(world.model))
    run = with_model(world.run, "org/base", hub.repositories["org/base"].branches["main"])
    without = world.here(run, weights=False)
    assert sorted(contents(without.model)) == sorted(contents(world.model).keys() - {"model.safetensors"})
    assert hub.sent_bytes < 1_000_000
    assert contents(world.here(run).model) == contents(world.model)


@pytest.mark.parametrize("during", ["train.ids.bin", "model.safetensors"])
def test_a_process_that_is_killed_leaves_nothing_that_is_used(world: World, during: str) -> None:
    pause = Fault(match=rf"GET .*/{during}", action="hang", times=1)
    world.proxy.faults.append(pause)
    rank = world.process()
    wait_for(lambda: pause.seen or rank.poll() is not None)
    rank.kill()
    rank.communicate()
    assert pause.seen == 1
    assert list(world.scratch.rglob("*.lock")) != []
    places = world.here()
    assert contents(places.model) == contents(world.model)
    assert contents(places.prepared) == contents(world.model.with_name("prepared") / NAME)


@pytest.mark.parametrize("number", ["last", "middle"])
def test_a_model_that_changed_since_is_refused(world: World, tmp_path: Path, number: str) -> None:
    """Also where size and both ends of the file are the same; and where a node has the former one in its cache."""
    world.here()
    put_model(world.storage, write_model(tmp_path / "changed", **{number: 1.0}))
    now = revision(world.base, tmp_path / "looked-at")
    assert now != world.run.model_revision
    shutil.rmtree(world.scratch / "models-found")
    for scratch in (tmp_path / "another", world.scratch):
        with pytest.raises(RunConflict) as refusal:
            PodPlaces(str(scratch)).here(world.run, weights=True)
        assert f"revision {world.run.model_revision} then, {now} now; put it back" in str(refusal.value)
    assert world.run.job.spec.model.name in str(refusal.value)
    put_model(world.storage, world.model)
    assert contents(world.here().model) == contents(world.model)


def test_a_model_that_is_replaced_while_it_is_fetched_is_not_taken_for_the_former_one(world: World, tmp_path: Path) -> None:
    listed = world.base.versions()
    put_model(world.storage, write_model(tmp_path / "changed", middle=1.0))
    with pytest.raises(StorageFailed, match=r"model.safetensors was replaced while it was read; run the same command again"):
        world.base.get_file("model.safetensors", tmp_path / "copy", {key: version for key, _, version in listed}["model.safetensors"])
    assert not (tmp_path / "copy").exists()


def test_a_fetched_model_that_was_altered_is_fetched_again(world: World) -> None:
    weights = Path(world.here().model) / "model.safetensors"
    whole = weights.read_bytes()
    for altered in (whole[:-1] + b"x", b"cut off"):
        weights.write_bytes(altered)
        assert (Path(world.here().model) / "model.safetensors").read_bytes() == whole


def test_a_cache_is_shared_by_nodes(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another pod, which has the volume but not the scratch folder, fetches the small files and only looks at the weights."""
    monkeypatch.setenv(MODEL_CACHE_ENV, str(tmp_path / "cache"))
    whole = world.counting(r"HEAD .*/model\.safetensors")  # a file is measured before it is fetched
    first = world.here()
    second = PodPlaces(str(tmp_path / "another")).here(world.run, weights=True)
    assert first.model == second.model
    assert Path(first.model).parent == tmp_path / "cache"
    assert first.prepared != second.prepared
    assert whole.seen == 1


def test_a_folder_on_a_volume_is_used_where_it_is(world: World, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "volume")
    run = with_model(world.run, str(folder), folder_revision(folder))
    assert world.here(run).model == str(folder)
    assert list(world.scratch.rglob("model.safetensors")) == []
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(RunConflict, match=f"base model {folder} has changed since this run was prepared"):
        world.here(run)


def test_prepared_data_on_a_volume(world: World, tmp_path: Path) -> None:
    upload_prepared(open_storage(str(tmp_path / "volume")), tmp_path / "prepared" / NAME)
    value = json.loads(world.run.to_json())
    value["job"]["spec"]["checkpoints"] = {"storage": str(tmp_path / "volume")}
    run = with_model(TrainingRun.from_json(json.dumps(value)), str(world.model), folder_revision(world.model))
    assert contents(world.here(run).prepared) == contents(tmp_path / "prepared" / NAME)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    # For this process, where the library may have been imported; one that is imported now must not keep this address for later tests.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_ENDPOINT", server.url)  # for others
    yield server
    server.close()


def test_processes_of_a_node_ask_the_hub_once(world: World, hub: HubServer) -> None:
    hub.create("org/base", contents(world.model))
    commit = hub.repositories["org/base"].branches["main"]
    run = with_model(world.run, "org/base", commit)
    ranks = [world.process(run) for _ in range(2)]
    found = [json.loads(rank.communicate()[0]) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert found[0] == found[1]
    assert commit in found[0]["model"]
    assert len(hub.asked(r"^GET /api/models/org/base/revision/")) == 1


def test_a_bucket_that_is_away_is_for_the_next_attempt(world: World) -> None:
    world.proxy.faults.append(Fault(match=r"GET .*prefix=[^&]*base", action="lose", times=100))
    with pytest.raises(StorageFailed, match="no answer from"):
        world.here()


def test_a_hub_that_is_away_is_for_the_next_attempt(world: World, hub: HubServer) -> None:
    """It answered when the run was prepared: nothing in the job is wrong, so the job must not end for it."""
    hub.close()
    with pytest.raises(TrainingFailed, match="can't be fetched from the Hub"):
        world.here(with_model(world.run, "org/base", "0" * 40))
