"""Headers of safetensors, and their index: what is damaged is refused by name, whatever became of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.errors import InvalidModel
from finetune_trainer.model.headers import parse_header, stored_tensors, weights_in_folder
from finetune_trainer.model.resolve import read_config

HEADER: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


def file_of(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(24)


def shapes(data: bytes) -> dict[str, tuple[int, ...]]:
    return parse_header("a.safetensors", len(data), lambda start, stop: data[start:stop])


def with_entry(**changes: Any) -> bytes:
    return json.dumps({"a": HEADER["a"] | changes}).encode()


def test_names_and_shapes() -> None:
    assert shapes(file_of(json.dumps(HEADER).encode())) == {"a": (2, 3)}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"a": 7}',
        with_entry(data_offsets=[24]),
        with_entry(data_offsets=[0, "24"]),
        with_entry(data_offsets={}),
        with_entry(shape=7),
        with_entry(shape=["2"]),
        with_entry(shape=[-1]),
        with_entry(data_offsets=[0, 23]),
    ],
)
def test_a_damaged_header_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidModel, match=r"^a\.safetensors is damaged or cut off; download it again$"):
        shapes(file_of(header))


@pytest.mark.parametrize("index", [b'{"weight_map": null}', b'{"weight_map": ["a"]}', b'{"weight_map": {"a": 7}}', b"[" * 100_000, b"[]"])
def test_a_damaged_index_is_refused(tmp_path: Path, index: bytes) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(index)
    with pytest.raises(InvalidModel, match=r"model\.safetensors\.index\.json .*download (it|the model) again"):
        stored_tensors(weights_in_folder(tmp_path), read_config(path))
