"""Sources: files, folders and objects as rows, with the identity of their content; and what is said about those that are not there."""

import json
import socket
from pathlib import Path
from typing import Any

import datasets
import pytest
from examples.demo.s3_server import S3Server

from finetune_api.errors import InvalidData, InvalidSpec, InvalidStorage
from finetune_api.finetunejob import Checkpoints, DataSource, SecretName
from finetune_trainer.data.sources import Row, Rows, read
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.storage.places import open_storage

BUCKET = "finetune-tests"  # the one that the s3 fixture made


def rows_of(base: Path, name: str, split: str = "train", **options: Any) -> Rows:
    return read(DataSource(path=name), split, base=base, secrets=Secrets({}), **options)


def refusal(base: Path, name: str, split: str = "train", **options: Any) -> str:
    with pytest.raises(InvalidData) as caught:
        list(rows_of(base, name, split, **options))
    return str(caught.value)


def write(path: Path, *values: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'{{"a": {value}}}\n' for value in values))
    return path


def test_a_file_relative_to_the_job(tmp_path: Path) -> None:
    write(tmp_path / "data" / "x.jsonl", 1, 2)
    expected: list[Row] = [("./data/x.jsonl", 1, {"a": 1}), ("./data/x.jsonl", 2, {"a": 2})]
    rows = rows_of(tmp_path, "./data/x.jsonl")
    assert list(rows) == expected
    assert list(rows) == expected  # again, from the start
    assert [data for _, _, data in rows_of(tmp_path / "data", "../data/x.jsonl")] == [{"a": 1}, {"a": 2}]
    absolute = str(tmp_path / "data" / "x.jsonl")
    assert next(iter(rows_of(Path("/nowhere"), absolute)))[0] == absolute


def test_a_folder_names_each_file_and_numbers_its_rows(tmp_path: Path) -> None:
    write(tmp_path / "d" / "train-1.jsonl", 3)
    write(tmp_path / "d" / "train-0.jsonl", 1, 2)
    write(tmp_path / "d" / "test.jsonl", 9)
    (tmp_path / "d" / "README.md").write_text("notes")
    assert [row[:2] for row in rows_of(tmp_path, "./d/")] == [("./d/train-0.jsonl", 1), ("./d/train-0.jsonl", 2), ("./d/train-1.jsonl", 1)]
    assert [data for _, _, data in rows_of(tmp_path, "./d", "test")] == [{"a": 9}]


def test_a_fallback_is_told(tmp_path: Path) -> None:
    write(tmp_path / "d" / "train_ift.jsonl", 1)
    notices: list[str] = []
    rows = rows_of(tmp_path, "./d", notice=notices.append)
    assert rows.split == "train_ift"
    assert notices == ["./d: there is no split 'train'; 'train_ift' is read"]


def test_files_that_are_not_read_are_told(tmp_path: Path) -> None:
    write(tmp_path / "d" / "train.jsonl", 1)
    write(tmp_path / "d" / "notes.jsonl", 2)
    notices: list[str] = []
    assert len(list(rows_of(tmp_path, "./d", notice=notices.append))) == 1
    expected = "not read, as their names are not those of split 'train': notes.jsonl; a file can be a source of its own"
    assert notices == [f"./d: {expected}"]


def test_dev_notes_and_evaluate_me_are_told_by_name(tmp_path: Path) -> None:
    """Kind 8: folder with `dev_notes.jsonl`, `evaluate_me.jsonl`, split train."""
    write(tmp_path / "d" / "evaluate_me.jsonl", 1)
    write(tmp_path / "d" / "dev_notes.jsonl", 2)
    notices: list[str] = []
    assert [where for where, _, _ in rows_of(tmp_path, "./d", notice=notices.append)] == ["./d/evaluate_me.jsonl"]
    assert len(notices) == 1
    assert "split 'train': dev_notes.jsonl;" in notices[0]


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    """save_to_disk writes dataset_info.json and state.json beside the rows."""
    parts = {"train": datasets.Dataset.from_list([{"a": 1}, {"a": 2}]), "test": datasets.Dataset.from_list([{"a": 3}])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert [data for _, _, data in rows_of(tmp_path, "./saved")] == [{"a": 1}, {"a": 2}]
    assert [data for _, _, data in rows_of(tmp_path, "./saved", "test")] == [{"a": 3}]


def test_an_empty_shard_among_others_is_no_error_and_nothing_but_empty_ones_is(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train-0.json").write_text("[]")
    assert refusal(tmp_path, "./d") == "./d: split 'train' is empty, it holds no row; give data or remove the source"
    write(tmp_path / "d" / "train-1.jsonl", 1)
    assert len(list(rows_of(tmp_path, "./d"))) == 1


@pytest.mark.parametrize(
    ("name", "split", "reason"),
    [
        ("./nothing.jsonl", "train", "./nothing.jsonl: there is no such file or folder (looked at"),
        ("./tain.jsonl", "train", "is it train.jsonl?"),
        ("./x.txt", "train", "./x.txt: unknown format; convert it to one of .jsonl, .jsonl.gz, .json,"),
        ("./train.jsonl", "test", "a single file has only the split 'train', not 'test'"),
        ("./docs", "train", "./docs: has 1 files, but none of a known format; put files there that end in .jsonl"),
        ("./hollow", "train", "./hollow: is empty: no file of a known format"),
        ("./parts", "test", "./parts: no split 'test' or 'test_ift'; it has 'train'"),
        ("train.jsonl", "train", "train.jsonl: a local path of this name exists, and the name means a Hub data set; write ./train.jsonl"),
        ("other.jsonl", "train", "other.jsonl: no Hub id (org/name); for a local path write ./other.jsonl"),
        ("a/b/c", "train", "a/b/c: no Hub id (org/name)"),
    ],
)
def test_sources_that_can_not_be_found(tmp_path: Path, name: str, split: str, reason: str) -> None:
    write(tmp_path / "train.jsonl", 1)
    write(tmp_path / "parts" / "a.jsonl", 1)
    (tmp_path / "x.txt").write_text("a,b")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "notes.md").write_text("notes")
    assert reason in refusal(tmp_path, name, split)


def test_identity_is_of_the_content(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 1, 2)
    write(tmp_path / "b.jsonl", 1, 2)
    write(tmp_path / "c.jsonl", 1, 3)
    identities = [rows_of(tmp_path, f"./{name}.jsonl").identity() for name in "abc"]
    assert identities[0] == identities[1] != identities[2]
    assert identities[0].startswith("sha256:")


def test_identity_is_of_the_split_and_of_the_order_of_files(tmp_path: Path) -> None:
    write(tmp_path / "d" / "train-0.jsonl", 1)
    write(tmp_path / "d" / "train-1.jsonl", 2)
    before = rows_of(tmp_path, "./d").identity()
    write(tmp_path / "d" / "test.jsonl", 5)
    assert rows_of(tmp_path, "./d").identity() == before
    write(tmp_path / "d" / "train-0.jsonl", 2)
    write(tmp_path / "d" / "train-1.jsonl", 1)
    assert rows_of(tmp_path, "./d").identity() != before


def bucket(root: Path) -> Any:
    """Opens `s3://bucket/...` in a folder that stands for the bucket."""
    return lambda url: DirectoryStorage(root / url.removeprefix("s3://bucket").strip("/"))


def test_an_object(tmp_path: Path) -> None:
    path = write(tmp_path / "chats" / "x.jsonl", 1, 2)
    rows = rows_of(Path(), "s3://bucket/chats/x.jsonl", open_storage=bucket(tmp_path))
    assert list(rows) == [("s3://bucket/chats/x.jsonl", 1, {"a": 1}), ("s3://bucket/chats/x.jsonl", 2, {"a": 2})]
    assert rows.identity() == rows_of(tmp_path, str(path)).identity()
    top = rows_of(Path(), "s3://bucket/x.jsonl", open_storage=bucket(tmp_path / "chats"))
    assert [number for _, number, _ in top] == [1, 2]


def test_objects_under_a_prefix(tmp_path: Path) -> None:
    write(tmp_path / "chats" / "train" / "0.jsonl", 1)
    write(tmp_path / "chats" / "train" / "1.jsonl", 2)
    write(tmp_path / "chats" / "test" / "0.jsonl", 3)
    write(tmp_path / "elsewhere" / "train" / "0.jsonl", 4)
    rows = rows_of(Path(), "s3://bucket/chats/", open_storage=bucket(tmp_path))
    assert [row[:2] for row in rows] == [("s3://bucket/chats/train/0.jsonl", 1), ("s3://bucket/chats/train/1.jsonl", 1)]


def test_the_card_beside_the_data_of_a_folder_or_prefix(tmp_path: Path) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "with" / "README.md").write_bytes(b"---\nlicense: mit\n---\n\xff")
    for folder, opener in (("./", None), ("s3://bucket/", bucket(tmp_path))):
        assert rows_of(tmp_path, f"{folder}with", open_storage=opener).readme() == "---\nlicense: mit\n---\n\ufffd"
        assert rows_of(tmp_path, f"{folder}without", open_storage=opener).readme() == ""
    assert rows_of(tmp_path, "./with/train.jsonl").readme() == ""
    gone = rows_of(tmp_path, "./with")
    (tmp_path / "with" / "README.md").unlink()
    assert gone.readme() == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("s3://bucket/nothing.jsonl", "s3://bucket/nothing.jsonl: there is no such object"),
        ("s3://bucket/nothing", "s3://bucket/nothing: is empty: no file of a known format"),
    ],
)
def test_objects_that_are_not_there(tmp_path: Path, name: str, reason: str) -> None:
    assert reason in refusal(Path(), name, open_storage=bucket(tmp_path))


def test_a_missing_secret_of_an_s3_source_names_its_field() -> None:
    source = DataSource(path="s3://bucket/x.jsonl", credentials_secret=SecretName(name="mine"))
    with pytest.raises(InvalidSpec, match=r"spec\.dataset\.sources\.3\.credentialsSecret: secret 'mine'"):
        read(source, "train", base=Path(), secrets=Secrets({}), field="spec.dataset.sources.3")


def test_a_hub_source_names_the_field_of_a_missing_token() -> None:
    source = DataSource.model_validate({"path": "org/data", "tokenSecret": {"name": "hub"}})
    with pytest.raises(InvalidSpec, match=r"spec\.dataset\.sources\.0\.tokenSecret: secret 'hub'"):
        read(source, "train", base=Path(), secrets=Secrets({}), field="spec.dataset.sources.0")


def test_a_line_that_is_broken_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_text(json.dumps({"a": 1}) + "\n{\n" + json.dumps({"a": 2}) + "\n")
    assert [row[:2] for row in rows_of(tmp_path, "./d")] == [("./d/train.jsonl", 1), ("./d/train.jsonl", 2), ("./d/train.jsonl", 3)]


def test_a_real_bucket_with_keys_of_the_checkpoints(s3: S3Server) -> None:
    environment = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    checkpoints = Checkpoints(endpoint=s3.endpoint, region="us-east-1", credentials_secret=SecretName(name="s3"))
    options: dict[str, Any] = {"base": Path(), "secrets": Secrets(environment), "checkpoints": checkpoints}
    storage = open_storage(
        f"s3://{BUCKET}/sources",
        endpoint=s3.endpoint,
        region="us-east-1",
        credentials=lambda: options["secrets"].storage_credentials("s3://bucket", SecretName(name="s3"), "field"),
    )
    storage.put("train.jsonl", b'{"a": 1}\n{"a": 2}\n')
    for name in (f"s3://{BUCKET}/sources", f"s3://{BUCKET}/sources/train.jsonl"):
        rows = read(DataSource(path=name), "train", **options)
        assert [data for _, _, data in rows] == [{"a": 1}, {"a": 2}]
    with pytest.raises(InvalidStorage, match="no-such-bucket"):
        read(DataSource(path="s3://no-such-bucket/sources"), "train", **options)
    with pytest.raises(InvalidStorage) as caught:
        read(DataSource(path=name), "train", **options | {"secrets": Secrets(environment | {"AWS_SECRET_ACCESS_KEY": "wrong"})})
    assert "spec.checkpoints.credentialsSecret" in str(caught.value)


def test_an_s3_server_that_does_not_answer_is_a_wrong_setting() -> None:
    with socket.socket() as free:  # bound and not listening: a connection is refused
        free.bind(("127.0.0.1", 0))
        checkpoints = Checkpoints(endpoint=f"http://127.0.0.1:{free.getsockname()[1]}", credentials_secret=SecretName(name="s3"))
        secrets = Secrets({"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"})
        with pytest.raises(InvalidStorage, match=r"spec\.dataset\.sources\.0\.path=s3://bucket: can't reach"):
            read(
                DataSource(path="s3://bucket/x.jsonl"),
                "train",
                base=Path(),
                secrets=secrets,
                checkpoints=checkpoints,
                field="spec.dataset.sources.0",
            )
