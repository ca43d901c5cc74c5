"""What reads files of others: a target has cases, and may refuse each with a FineTuneError."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tests.api.jobs import STARCODERBASE, data_shape
from tests.fuzz import valid
from tests.fuzz.damage import damaged_bytes, damaged_json, damaged_text, damaged_tree
from tests.trainer.checkpoints.test_store import IDENTITY, save
from tests.trainer.memory_storage import MemoryStorage
from tests.trainer.preparation.test_store import write

from finetune_api.errors import InvalidSpec
from finetune_api.evaluation_summary import parse_summary
from finetune_api.jobfile import data_source, parse_job
from finetune_api.plan import cluster_plan, plan
from finetune_api.pod_result import parse_pod_result
from finetune_api.report import parse_report
from finetune_cli.validate import problems_of
from finetune_trainer.checkpoints import claims
from finetune_trainer.checkpoints.manifest import Manifest
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.data.files import file_rows
from finetune_trainer.data.parsing import parse
from finetune_trainer.model.headers import INDEX, parse_header, stored_tensors, weights_in_folder
from finetune_trainer.model.resolve import read_config
from finetune_trainer.preparation.store import PreparedData, Side, read_meta
from finetune_trainer.publishing.model_folder import RECORD_NAME, read_exported
from finetune_trainer.reporting.metrics import MetricsFile
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.storage.kept_runs import kept_runs, life_of, pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`read` takes a case and an empty folder. `share`: how many of all cases, against the others."""

    name: str
    cases: st.SearchStrategy[Any]
    read: Callable[[Any, Path], object]
    share: int = 1


# ---- what users write


def _job_file(text: str, folder: Path) -> None:
    path = folder / "job.yaml"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    problems_of(path, ["training.epochs=2", "dataset.sources.0.limit=7"], cluster=True)
    if problems := problems_of(path, []):
        raise InvalidSpec(problems)


def _job_values(tree: Any, folder: Path) -> None:
    found = parse_job(tree)
    plan(found, found.spec.model.shape, None)
    cluster_plan(found, STARCODERBASE, data_shape())


def _rows(tree: Any, folder: Path) -> None:
    rows = tree if isinstance(tree, list) else [tree]
    for _ in parse([("rows", number, row) for number, row in enumerate(rows, 1) if isinstance(row, dict)], data_source("./rows.jsonl")):
        pass


def _file(suffix: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = folder / f"rows{suffix}"
        path.write_bytes(data)
        for _ in parse(file_rows(path, path.name), data_source("./rows.jsonl")):
            pass

    return read


# ---- what runs leave


def _run_record(data: bytes, folder: Path) -> None:
    (folder / "run.json").write_bytes(data)
    RunFolder(folder).frozen_run()


def _metrics(data: bytes, folder: Path) -> None:
    (folder / "metrics.jsonl").write_bytes(data)
    MetricsFile(folder / "metrics.jsonl").close()


def _export_record(data: bytes, folder: Path) -> None:
    (folder / RECORD_NAME).write_bytes(data)
    (folder / "config.json").write_bytes(b"{}")
    read_exported(folder)


def _owner(data: bytes, folder: Path) -> None:
    storage = MemoryStorage()
    storage.put(claims.IDENTITY_KEY, data)
    claims.check_owner(storage, identity="i" * 64, job="demo")


_KEPT = ("driver/began.json", "driver/ended.json", "driver/000000000000.log", "rank-0-stderr/000000000000.log", "metrics.jsonl", "a/b/c")


def _kept(data: bytes, folder: Path) -> None:
    storage = MemoryStorage()
    for name in _KEPT:
        storage.put(f"logs/training/20261129T100000Z-tiny-1-aaaaa/{name}", data)
    for run in kept_runs(storage)["training"]:
        for who in run.in_order():
            life_of(storage, run, who)
            b"".join(pieces(storage, run.logs[who]))


# ---- checkpoints, prepared data and weights


def _checkpoint() -> tuple[MemoryStorage, Manifest]:
    storage = MemoryStorage()
    return storage, save(CheckpointStore(storage, identity=IDENTITY, job="fennel").claimed(), 3)


def _with(objects: dict[str, bytes]) -> CheckpointStore:
    storage = MemoryStorage()
    storage.objects = objects
    return CheckpointStore(storage, identity=IDENTITY, job="fennel")


def _manifest(key: str, objects: dict[str, bytes]) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        for _ in _with(objects | {key: data}).candidates():
            pass

    return read


def _signed(body: Any) -> bytes:
    """With the digest of what it holds now, as one who means harm would write it."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    envelope = {"format": 2, "sha256": hashlib.sha256(text.encode()).hexdigest(), "body": json.loads(text)}
    return json.dumps(envelope).encode()


def _part(key: str, objects: dict[str, bytes]) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        store = _with(objects | {key: data})
        for found in store.candidates():
            store.verify(found, deep=True)
            assert data == objects[key], "a checkpoint that is altered is not taken"

    return read


_PREPARED = ("meta.json", "train.ids.bin", "train.supervised.bin", "train.offsets.npy", "train.counts.npy")


@st.composite
def _prepared_cases(draw: st.DrawFn, files: dict[str, bytes]) -> tuple[str, bytes]:
    name = draw(st.sampled_from(_PREPARED))
    return name, draw(damaged_json(json.loads(files[name])) if name == "meta.json" else damaged_bytes(files[name]))


def _prepared(files: dict[str, bytes]) -> Callable[[tuple[str, bytes], Path], None]:
    def read(case: tuple[str, bytes], folder: Path) -> None:
        for name, data in (files | {case[0]: case[1]}).items():
            (folder / name).write_bytes(data)
        sides: tuple[Side, ...] = ("train", "evaluation")
        for side in sides:
            prepared = PreparedData.open(folder, side)
            for index in range(prepared.num_examples):
                prepared.labels(index)
        read_meta(folder)

    return read


def _weights(data: bytes, folder: Path) -> None:
    parse_header("model.safetensors", len(data), lambda start, stop: data[start:stop])


def _weights_index(data: bytes, folder: Path) -> None:
    (folder / INDEX).write_bytes(data)
    (folder / "a.safetensors").write_bytes(valid.safetensors(json.dumps(valid.WEIGHTS_HEADER).encode()))
    stored_tensors(weights_in_folder(folder), read_config(folder / INDEX))


def targets(folder: Path) -> list[Target]:
    """All of them. `folder`: for files that are made once."""
    return [*_of_users(), *_of_runs(), *_of_training(folder)]


def _of_users() -> list[Target]:
    rows, messages = st.sampled_from(valid.ROWS), valid.json_lines(valid.ROWS[0])
    return [
        Target(name="job file", cases=st.sampled_from(valid.JOB_TEXTS).flatmap(damaged_text), read=_job_file, share=4),
        Target(name="job values", cases=st.sampled_from(valid.JOBS).flatmap(damaged_tree), read=_job_values, share=4),
        Target(name="rows", cases=rows.flatmap(lambda found: damaged_tree(found * 2)), read=_rows, share=4),
        Target(name="jsonl", cases=rows.flatmap(lambda found: damaged_bytes(valid.json_lines(found * 2))), read=_file(".jsonl"), share=2),
        Target(name="json", cases=damaged_json(valid.ROWS[0] + valid.ROWS[3]), read=_file(".json")),
        Target(name="jsonl.gz", cases=damaged_bytes(valid.zipped(messages)), read=_file(".jsonl.gz")),
        Target(name="csv", cases=damaged_bytes(valid.CSV), read=_file(".csv")),
        Target(name="parquet", cases=damaged_bytes(valid.columns(parquet=True)), read=_file(".parquet"), share=2),
        Target(name="arrow", cases=damaged_bytes(valid.columns(parquet=False)), read=_file(".arrow")),
    ]


def _of_runs() -> list[Target]:
    lines = damaged_tree(valid.METRICS).map(lambda rows: valid.json_lines(rows if isinstance(rows, list) else [rows]))
    return [
        Target(name="run.json", cases=damaged_json(valid.run()), read=_run_record, share=2),
        Target(name="metrics.jsonl", cases=damaged_bytes(valid.json_lines(valid.METRICS)) | lines, read=_metrics),
        Target(name="export record", cases=damaged_json(valid.EXPORT_RECORD), read=_export_record),
        Target(name="owner of a prefix", cases=damaged_json(valid.OWNER), read=_owner),
        Target(name="kept logs", cases=damaged_json(valid.END), read=_kept),
        Target(
            name="pod result", cases=damaged_json(valid.POD_RESULT), read=lambda data, _: parse_pod_result(data.decode(errors="replace"))
        ),
        Target(name="evaluation summary", cases=damaged_json(valid.SUMMARY), read=lambda data, _: parse_summary(data, "d" * 16)),
        Target(name="report", cases=damaged_tree(valid.REPORT), read=lambda tree, _: parse_report(tree), share=2),
    ]


def _of_training(folder: Path) -> list[Target]:
    storage, manifest = _checkpoint()
    part, body = manifest.objects[0].key, json.loads(manifest.to_bytes())["body"]
    manifests = (
        damaged_bytes(manifest.to_bytes()) | damaged_tree(body).map(_signed) | damaged_json({"format": 2, "sha256": "", "body": body})
    )
    files = {path.name: path.read_bytes() for path in write(folder).iterdir()}
    header = json.dumps(valid.WEIGHTS_HEADER).encode()
    weights = damaged_json(valid.WEIGHTS_HEADER).map(valid.safetensors) | damaged_bytes(valid.safetensors(header))
    return [
        Target(name="manifest", cases=manifests, read=_manifest(manifest.key, storage.objects), share=2),
        Target(name="checkpoint object", cases=damaged_bytes(storage.objects[part]), read=_part(part, storage.objects)),
        Target(name="prepared data", cases=_prepared_cases(files), read=_prepared(files), share=2),
        Target(name="safetensors header", cases=weights, read=_weights, share=2),
        Target(name="index of weights", cases=damaged_json(valid.WEIGHTS_INDEX), read=_weights_index),
    ]
