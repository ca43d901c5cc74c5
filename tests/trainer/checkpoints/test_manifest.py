"""The manifest: every element exactly once, and nothing that was altered is believed."""

import json
from dataclasses import replace

import pytest

from finetune_api.errors import InvalidStorage
from finetune_trainer.checkpoints.manifest import Extent, Manifest, PartRecord, StoredPiece, manifest
from finetune_trainer.storage.errors import DamagedCheckpoint


def piece(start: int, stop: int, *, offset: int = 0, kind: str = "master", name: str = "w", shape: tuple[int, ...] = (2, 5)) -> StoredPiece:
    return StoredPiece(kind=kind, name=name, shape=shape, start=start, stop=stop, offset=offset)  # type: ignore[arg-type]


def part(rank: int, *pieces: StoredPiece) -> PartRecord:
    return PartRecord(
        rank=rank,
        key=f"checkpoints/step-00000012/attempt-0003/rank-{rank:05d}.bin",
        size=40,
        sections=(40,),
        digests=("0" * 64,),
        pieces=pieces,
    )


def made(*parts: PartRecord) -> Manifest:
    return manifest("identity", 12, 3, parts, {"position": 7})


def test_pieces_become_extents_in_order() -> None:
    one = made(
        part(1, piece(4, 10)), part(0, piece(0, 4), piece(0, 0, shape=(0,), name="empty"), piece(0, 1, shape=(), name="scalar", offset=16))
    )
    assert one.tensors["master", "w"].extents == (Extent(0, 4, 0, 0), Extent(4, 10, 1, 0))
    assert one.tensors["master", "scalar"].extents == (Extent(0, 1, 0, 16),)
    assert one.tensors["master", "empty"].extents == ()
    assert (one.world_size, one.num_bytes, one.key) == (2, 80, "checkpoints/step-00000012/attempt-0003/manifest.json")


def test_a_record_goes_through_json() -> None:
    one = part(1, piece(4, 10))
    assert PartRecord.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([part(0, piece(0, 9))], "9 of 10 elements"),
        ([part(0, piece(1, 10))], r"elements \[0, 1\] are missing"),
        ([part(0, piece(0, 4)), part(1, piece(5, 10))], r"elements \[4, 5\] are missing"),
        ([part(0, piece(0, 6)), part(1, piece(5, 10))], r"elements \[5, 6\] are there twice"),
        ([part(0, piece(0, 10)), part(1, piece(0, 10))], "there twice"),
        ([part(0, piece(0, 4)), part(1, piece(4, 10, shape=(10,)))], "pieces of shapes"),
        ([part(0, piece(0, 10)), part(2)], r"parts of ranks \[0, 2\]"),
        ([part(0, piece(0, 10)), part(0)], r"parts of ranks \[0, 0\]"),
        ([part(0, piece(0, 10), piece(0, 10, kind="exp_avg", name="v"))], "master and exp_avg differ"),
        ([part(0, piece(0, 10), piece(0, 10, kind="exp_avg", shape=(10,)))], "master and exp_avg differ"),
    ],
)
def test_what_does_not_cover_every_tensor_once_is_refused(parts: list[PartRecord], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(*parts)


def test_what_is_not_trained_is_a_kind_of_its_own() -> None:
    """A router's correction has no moments; what is trained is no constant."""
    one = made(part(0, piece(0, 10), piece(0, 10, kind="constant", name="bias")))
    assert Manifest.from_bytes(one.to_bytes(), one.key).tensors.keys() == {("master", "w"), ("constant", "bias")}
    with pytest.raises(ValueError, match="are trained, and constant"):
        made(part(0, piece(0, 10), piece(0, 10, kind="constant")))


def test_a_manifest_comes_back() -> None:
    one = made(part(0, piece(0, 10)))
    assert Manifest.from_bytes(one.to_bytes(), one.key) == one


def test_no_altered_byte_is_believed() -> None:
    one = made(part(0, piece(0, 10)))
    data = one.to_bytes()
    for position in range(len(data)):
        altered = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises((DamagedCheckpoint, InvalidStorage)):
            Manifest.from_bytes(altered, one.key)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff", b'{"format":2,"sha256":"","body":{}}'])
def test_what_is_no_manifest_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedCheckpoint):
        Manifest.from_bytes(data, "checkpoints/step-00000012/attempt-0003/manifest.json")


def test_a_cut_off_or_moved_manifest_is_damaged() -> None:
    one = made(part(0, piece(0, 10)))
    with pytest.raises(DamagedCheckpoint, match="no manifest"):
        Manifest.from_bytes(one.to_bytes()[:-1], one.key)
    with pytest.raises(DamagedCheckpoint, match="is the manifest of"):
        Manifest.from_bytes(one.to_bytes(), replace(one, step=13).key)


def test_a_format_of_the_future_is_not_passed_over() -> None:
    one = made(part(0, piece(0, 10)))
    data = one.to_bytes().replace(b'"format":2', b'"format":3')
    with pytest.raises(InvalidStorage, match="has format 3, this version reads 2"):
        Manifest.from_bytes(data, one.key)


def test_values_that_are_no_json_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        manifest("identity", 12, 3, [part(0, piece(0, 10))], {"loss": float("nan")})
