"""Valid files of every kind, small, for `damage.py` to damage."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml
from tests.api.jobs import STARCODERBASE, data_shape, job, mapping

from finetune_api.plan import plan
from finetune_api.training_run import TrainingRun, Vocabulary, run_identity

_ROOT = Path(__file__).parents[2]
JOB_TEXTS = [
    path.read_text(encoding="utf-8")
    for path in sorted([*(_ROOT / "examples").glob("*.yaml"), *(_ROOT / "manifests/samples").glob("*.yaml")])
]
JOBS = [mapping(), *(yaml.safe_load(text) for text in JOB_TEXTS)]

_DIALOGUE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
_ANSWER = {"message_id": "2", "parent_id": "1", "text": "So.", "role": "assistant", "lang": "en", "rank": 0, "replies": []}
_QUESTION = {"message_id": "1", "text": "Why?", "role": "prompter", "lang": "en", "rank": None, "review_result": True, "replies": [_ANSWER]}
_CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
_TOOLS = [
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "assistant", "content": None, "tool_calls": [_CALL]},
    {"role": "tool", "content": "1"},
    {"role": "assistant", "content": "1"},
]
ROWS: list[list[dict[str, Any]]] = [
    [{"messages": [{"role": "system", "content": "Be kind."}, *_DIALOGUE]}, {"messages": _DIALOGUE, "source": "x"}],
    [{"id": "1", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}],
    [{"instruction": "Add", "input": "1 2", "output": "3"}],
    [{"message_tree_id": "1", "tree_state": "ready_for_export", "prompt": _QUESTION}],
    [{"prompt": "Why?", "completion": "So."}],
    [{"text": "a document of words"}],
    [{"messages": _TOOLS, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}],
]
CSV = b'prompt,completion\n"Why?","So, ""it"" is."\nHow,Thus\n'


def json_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def columns(*, parquet: bool) -> bytes:
    """Three rows as Parquet, or as Arrow's stream."""
    table, sink = pyarrow.table({"messages": [_DIALOGUE] * 3, "n": [1, None, 3]}), pyarrow.BufferOutputStream()
    if parquet:
        pyarrow.parquet.write_table(table, sink)
    else:
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return bytes(sink.getvalue())


def run() -> Any:
    """A frozen run's JSON."""
    found = job()
    frozen = TrainingRun(
        job=found,
        identity=run_identity(found),
        model_revision="a" * 40,
        model_shape=STARCODERBASE,
        vocabulary=Vocabulary(size=STARCODERBASE.vocabulary_size),
        data=data_shape(),
        plan=plan(found, STARCODERBASE, data_shape()),
    )
    return json.loads(frozen.to_json())


_NUMBERS = {"learning_rate": 1e-4, "grad_norm": 1.0, "supervised_tokens": 4, "tokens": 8, "tokens_per_second": 2.0, "memory_bytes": 1}
METRICS: list[dict[str, Any]] = [
    {"kind": "StepDone", "step": 1, "total_steps": 2, "epoch": 0.5, "loss": 1.0, "seconds": 4.0, **_NUMBERS},
    {"kind": "EvaluationDone", "step": 1, "epoch": 0.5, "loss": 1.0, "perplexity": 2.7},
]
_DIGEST = {"size": 2, "sha256": "0" * 64, "blobSha1": "0" * 40}
EXPORT_RECORD = {"job": "demo", "identity": "i" * 64, "step": 3, "dtype": "float32", "files": {"config.json": _DIGEST}}
OWNER = {"identity": "i" * 64, "job": "demo"}
END = {"time": "2026-11-29T10:00:00+00:00", "outcome": "Failed", "reason": "A", "message": "b", "exitCode": 1}
POD_RESULT = {"contractVersion": 1, "outcome": "Failed", "reason": "A", "message": "b", "permanent": True}
SUMMARY = {"digest": "d" * 16, "checkpoint": "c", "step": 3, "baseModel": "base", "tasks": [], "samples": [], "notes": []}
REPORT = {
    "metadata": {"name": "a", "uid": "b", "resourceVersion": "1"},
    "spec": {"stop": {"cluster": "c", "reason": "Suspended"}},
    "status": {
        "cluster": "c",
        "outcome": "Running",
        "step": 3,
        "totalSteps": 9,
        "loss": 1.0,
        "time": "2026-01-02T03:04:05Z",
        "checkpoint": {"step": 2, "bytes": 5, "key": "k"},
        "evaluation": {"step": 2, "loss": 1.0},
    },
}

_MATRIX = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
WEIGHTS_HEADER = {"__metadata__": {"format": "pt"}, "a": _MATRIX, "b": {"dtype": "F32", "shape": [], "data_offsets": [24, 28]}}
WEIGHTS_INDEX = {"metadata": {}, "weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}


def safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(28)
