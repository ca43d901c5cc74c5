"""Wrong input as a user meets it: `finetune run` (and its neighbours) end with code 2 and one message that names what, where, remedy.

Nothing here gets as far as Ray: wrong input is found before.
"""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from examples.demo.s3_server import S3Server
from tests.cli.conftest import Finetune
from tests.conftest import BUCKET, Tiny
from tests.trainer.faulty_proxy import Fault, faulty_proxy
from tests.trainer.hub_server import HubServer

from finetune_trainer.run_folder import RunFolder

GOOD = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
LINE = json.dumps(GOOD).encode() + b"\n"

# --- the FineTuneJob ----------------------------------------------------------------------------------------------------------

SPECS = {
    "typo in a key": ({"training__epoch": 3}, "spec.training.epoch: there is no such field; did you mean training.epochs?"),
    "wrong unit": ({"training__maxSequenceLength": "1k"}, '"1k" is not a whole number; write 1000 or 1024'),
    "wrong unit of time": ({"checkpoints__every__seconds": "10m"}, '"10m" is not a whole number; this field is in seconds: write 600'),
    "batches that don't divide": (
        {"training__globalBatchSize": 9},
        "spec.training.globalBatchSize: 9 is not a multiple of microBatchSize*worldSize=4; use 8 or 12",
    ),
    "unknown template": ({"template__name": "vicuna"}, "\"vicuna\" is not one of 'auto', 'default', 'no_system', 'alpaca', 'chatml'"),
    "unknown format": ({"dataset__sources__0__format": "sharegtp"}, "did you mean sharegpt?"),
    "not available": (
        {"training__sharding": "zero1"},
        "\"zero1\" is not one of 'zero3' or 'zero2'; zero1 is not available in this version; use zero2",
    ),
}


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
@pytest.mark.parametrize("case", SPECS)
def test_a_wrong_job_is_refused_alike_by_every_command(finetune: Finetune, tiny: Tiny, tmp_path: Path, command: str, case: str) -> None:
    values, message = SPECS[case]
    code, out, err = finetune(command, tiny.job, **values)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert list(tmp_path.iterdir()) == [], "a refused job leaves nothing behind"


def test_a_profile_of_no_steps_is_refused(finetune: Finetune, tiny: Tiny, tmp_path: Path) -> None:
    code, out, err = finetune("run", tiny.job, "--profile", "12-10")
    assert (code, out) == (2, "")
    assert "'12-10' is no span of steps; write the first and the last, counted from 1, such as 10-12" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_a_typo_in_the_yaml_is_found_by_line(finetune: Finetune, tmp_path: Path, tiny: Tiny, command: str) -> None:
    text = tiny.job.read_text()
    (tmp_path / "job.yaml").write_text(text.replace("  model: {name: ./tiny, initialization: random}", "  model: {name: ./tiny, [}"))
    line = text[: text.index("  model: {")].count("\n") + 1
    code, _, err = finetune(command, "job.yaml")
    assert code == 2
    assert f"job.yaml: is not YAML at line {line}, column" in err


def test_every_problem_of_the_file_and_of_the_command_line_is_told_at_once(finetune: Finetune, tiny: Tiny) -> None:
    code, _, err = finetune("run", tiny.job, training__epoch=3, training__seed="x", template__name="none")
    assert code == 2
    assert "the FineTuneJob has 3 problems" in err


# --- the base model -----------------------------------------------------------------------------------------------------------


def edited_model(folder: Path, tiny: Tiny, **changes: str | None) -> Path:
    """A copy of the tiny model with other files; None removes one."""
    shutil.copytree(tiny.model, folder)
    for name, content in changes.items():
        file = folder / name.replace("__", ".")
        file.unlink() if content is None else file.write_text(content)
    return folder


def without_end_of_text(tiny: Tiny) -> str:
    """The tiny tokenizer, its end of text under a name that says nothing."""
    return tiny.tokenizer.read_text().replace("<|endoftext|>", "<|padding|>")


@pytest.mark.parametrize(
    ("changes", "template", "message"),
    [
        ({"tokenizer__json": None}, "default", "has no tokenizer.json; save its fast tokenizer there"),
        ({"tokenizer__json": "{}"}, "default", "tokenizer.json: not a tokenizers JSON file"),
        ({}, "model", "the tokenizer has no chat_template, which template model needs; use one of our templates"),
        (
            {"tokenizer_config__json": "{}", "tokenizer__json": "no end"},
            "alpaca",
            "template alpaca needs a token that ends a text",
        ),
        ({"config__json": "{"}, "default", "config.json can't be read"),
    ],
)
def test_a_model_that_lacks_what_is_needed(
    finetune: Finetune, tiny: Tiny, tmp_path: Path, changes: dict[str, str | None], template: str, message: str
) -> None:
    changes = {name: without_end_of_text(tiny) if content == "no end" else content for name, content in changes.items()}
    edited_model(tmp_path / "model", tiny, **changes)
    code, _, err = finetune("run", tiny.job, model__name="./model", template__name=template)
    assert code == 2
    assert message in err
    assert str(tmp_path / "model") in err


def test_an_unknown_folder_is_no_model(finetune: Finetune, tiny: Tiny, tmp_path: Path) -> None:
    code, _, err = finetune("run", tiny.job, model__name="./none")
    assert code == 2
    assert f"{tmp_path}/none is no directory; give a folder with config.json, a Hub id or s3://bucket/prefix" in err


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("org/typo", "main", "model org/typo: no such model on the Hub, or it is private; check the name"),
        ("org/base", "v9", "model org/base: no revision 'v9'; give a branch, a tag or a full commit"),
    ],
)
def test_a_model_or_revision_that_the_hub_does_not_have(
    finetune: Finetune, hub: HubServer, tiny: Tiny, name: str, revision: str, message: str
) -> None:
    hub.create("org/base", {"config.json": b"{}"})
    wanted = {"model__name": name, "model__revision": revision, "model__initialization": "pretrained"}
    code, out, _ = finetune("run", tiny.job, "--json", **wanted)
    error = json.loads(out.splitlines()[-1])
    assert code == 2
    assert error["error"] == "InvalidModel"
    assert message in error["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["org/typo"], "org/typo can't be loaded: org/typo is not a local folder and is not a valid model identifier"),
        (["org/base", "--revision", "v9"], "org/base can't be loaded: v9 is not a valid git identifier"),
    ],
)
def test_a_chat_with_a_model_that_the_hub_does_not_have(finetune: Finetune, hub: HubServer, arguments: list[str], message: str) -> None:
    hub.create("org/base", {"config.json": b"{}"})
    code, out, _ = finetune("chat", *arguments, "--once", "Hello?", "--json")
    assert code == 2
    error = json.loads(out)
    assert error["error"] == "InvalidModel"
    assert message in error["message"]


def test_a_folder_has_no_revisions(finetune: Finetune, tiny: Tiny, tmp_path: Path) -> None:
    """Another one than was asked for would answer."""
    code, _, err = finetune("chat", str(tiny.model), "--revision", "v1.0", "--once", "Hello?")
    assert code == 2
    assert f"--revision v1.0: {tiny.model} is a folder" in err


def test_a_chat_with_damaged_weights(finetune: Finetune, tiny: Tiny, tmp_path: Path) -> None:
    edited_model(tmp_path / "model", tiny, model__safetensors="cut off", chat_template__jinja="{{ messages }}")
    code, out, _ = finetune("chat", "model", "--once", "Hello?", "--json")
    assert code == 2
    assert json.loads(out)["message"] == "model/model.safetensors is damaged or cut off; download it again"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "no token to publish to org/new; set spec.publish.hub.tokenSecret or HF_TOKEN"),
        ("hf_nobody", "the Hub does not accept the token"),
        ("hf_read", "may only read"),
        ("hf_other", "org/new can't be created with the token of eve; publish under one of: eve"),
    ],
)
def test_a_token_that_can_not_publish_is_refused_before_anything_else(
    finetune: Finetune, hub: HubServer, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, token: str | None, message: str
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    wanted = {"publish__directory": "null", "publish__hub__repository": "org/new", "dataset__sources__0__path": "./none.jsonl"}
    code, _, err = finetune("run", tiny.job, **wanted)
    assert code == 2
    assert message in err
    assert (token or "none.jsonl") not in err
    assert hub.repositories == {}


# --- the data -----------------------------------------------------------------------------------------------------------------


def bad_row(count: int, position: int) -> bytes:
    lines = [LINE] * count
    lines[position - 1] = LINE.replace(b'"assistant"', b'"robot"')
    return b"".join(lines)


FILES: dict[str, tuple[str, bytes | None, str]] = {
    "absent": ("rows.jsonl", None, "rows.jsonl: there is no such file or folder; correct the path"),
    "empty": ("rows.jsonl", b"", "rows.jsonl: the file is empty (0 bytes); copy it again, or remove it"),
    "truncated": ("rows.jsonl", LINE * 3 + LINE[:20], "rows.jsonl row 4: the last line is no complete JSON; the file is cut off"),
    "truncated parquet": ("rows.parquet", b"PAR1" + bytes(200), "rows.parquet: the file can't be read as parquet, or is cut off"),
    "truncated gzip": ("rows.jsonl.gz", b"\x1f\x8b\x08" + bytes(30), "rows.jsonl.gz: the compressed file is cut off or damaged"),
    "Latin-1": ("rows.jsonl", LINE + LINE.replace(b"Q", b"\xe9"), "rows.jsonl row 2: not UTF-8: byte 0xe9"),
    "UTF-16": ("rows.jsonl", LINE.decode().encode("utf-16"), "rows.jsonl: the file is UTF-16; convert it to UTF-8"),
    "wrong schema": (
        "rows.jsonl",
        b'{"question": 1, "reply": 2}\n',
        "rows.jsonl row 1: no known format has the columns 'question', 'reply'; set the source's format",
    ),
    "unknown kind": ("rows.xlsx", b"a,b\n", "rows.xlsx: unknown format; convert it to one of .jsonl"),
    "one bad row in 10,000": (
        "rows.jsonl",
        bad_row(10_000, 6_789),
        "rows.jsonl row 6789: message 2: unknown role 'robot'; known are ",
    ),
    "nothing to learn": (
        "rows.jsonl",
        json.dumps({"messages": GOOD["messages"][:1]}).encode() + b"\n",
        "the training data has no supervised token: nothing of it counts in the loss",
    ),
    "one conversation": ("rows.jsonl", LINE * 5, "1 conversation tree can't be divided into training and evaluation; add data"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_data_file_that_can_not_be_used(finetune: Finetune, tiny: Tiny, tmp_path: Path, case: str) -> None:
    name, content, message = FILES[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, _, err = finetune("run", tiny.job, dataset__sources__0__path=f"./{name}")
    assert code == 2
    assert f"error: {tmp_path}/{message}" in err if name in message else f"error: {message}" in err
    assert not (tmp_path / "runs/tiny/run.json").exists()


def test_what_is_wrong_with_data_can_be_allowed_and_is_told(finetune: Finetune, tiny: Tiny, tmp_path: Path) -> None:
    """The preview shows the other rows; so would a run with spec.dataset.maxInvalidRows."""
    (tmp_path / "rows.jsonl").write_bytes(bad_row(3, 2))
    code, out, err = finetune("data", "preview", "rows.jsonl", "--tokenizer", tiny.tokenizer, "--json")
    assert code == 0
    assert [json.loads(line)["row"] for line in out.splitlines()] == [1, 3]
    assert "rows.jsonl row 2: message 2: unknown role 'robot'" in err


def test_a_job_that_is_corrected_goes_on_in_the_same_folder(finetune: Finetune, tiny: Tiny, tmp_path: Path) -> None:
    """A typo in the data's name must not give folder and storage away to a run that never was."""
    for name in ("typo", "another-typo"):
        code, _, err = finetune("run", tiny.job, dataset__sources__0__path=f"./{name}.jsonl")
        assert code == 2
        assert f"{tmp_path}/{name}.jsonl: there is no such file or folder" in err


def test_a_directory_that_holds_something_else_is_refused_before_anything_else(finetune: Finetune, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    code, _, err = finetune("run", tiny.job, publish__directory__path="out", dataset__sources__0__path="./none.jsonl")
    assert code == 2
    assert f"{tmp_path}/out exists and holds no model of ours; choose another directory or remove it" in err
    assert (tmp_path / "out/thesis.txt").read_text() == "mine"


# --- storage ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, its keys in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    return s3


def on_s3(server: S3Server, **changes: object) -> dict[str, object]:
    prefix = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    return {"checkpoints__storage": prefix, "checkpoints__endpoint": server.endpoint} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"checkpoints__endpoint": "http://127.0.0.1:9"},
            "can't reach http://127.0.0.1:9; correct spec.checkpoints.endpoint, or start the server there",
        ),
        ({"checkpoints__storage": "s3://no-such-bucket/x"}, "there is no bucket 'no-such-bucket' at http://127.0.0.1"),
        (
            {"model__name": "s3://no-such-bucket/base", "model__initialization": "pretrained"},
            "spec.model.name=s3://no-such-bucket/base: there is no bucket 'no-such-bucket'",
        ),
        (
            {"dataset__sources__0__path": f"s3://{BUCKET}/no/rows.jsonl"},
            f"s3://{BUCKET}/no/rows.jsonl: there is no such object; check bucket and key",
        ),
    ],
)
def test_storage_that_is_not_where_the_job_says(
    finetune: Finetune, tiny: Tiny, keys: S3Server, changes: dict[str, object], message: str
) -> None:
    code, _, err = finetune("run", tiny.job, **on_s3(keys, **changes))
    assert code == 2
    assert message in err


def test_a_wrong_key_is_refused_and_not_shown(finetune: Finetune, tiny: Tiny, keys: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    code, _, err = finetune("run", tiny.job, **on_s3(keys))
    assert code == 2
    assert "refuses the access key (SignatureDoesNotMatch: The request" in err
    assert "not-the-secret" not in err


def test_no_key_at_all(finetune: Finetune, tiny: Tiny, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    code, _, err = finetune("run", tiny.job, **on_s3(s3))
    assert code == 2
    assert "no access key; set spec.checkpoints.credentialsSecret, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in err


def test_a_full_bucket_is_found_before_training(finetune: Finetune, tiny: Tiny, keys: S3Server) -> None:
    with faulty_proxy(keys.endpoint) as proxy:
        proxy.faults.append(Fault(match="^PUT", action="refuse", status=507, code="InsufficientStorage", times=99))
        code, _, err = finetune("run", tiny.job, **on_s3(keys, checkpoints__endpoint=proxy.endpoint))
    assert code == 1, "the input is right, the bucket is full"
    assert "no room (InsufficientStorage)" in err
    assert "Free space, raise the quota or lower spec.checkpoints.keep, then run the same command again" in err


# --- folders and files of runs ------------------------------------------------------------------------------------------------


def test_a_run_folder_that_is_a_file(finetune: Finetune, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = finetune("run", tiny.job, "--run-folder", "file")
    assert code == 2
    assert f"run folder {tmp_path}/file can't be used: File exists; choose another with --run-folder" in err
    for command in ("export", "publish"):
        code, _, err = finetune(command, "file")
        assert code == 2
        assert "file is no run folder: it has no run.json; give the folder that `finetune run` wrote" in err


def test_two_runs_at_once_in_one_folder(finetune: Finetune, tiny: Tiny, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs/tiny").locked():
        code, _, err = finetune("run", tiny.job)
    assert code == 2
    assert f"run folder {tmp_path}/runs/tiny is in use by process {os.getpid()}; wait for it, or choose another folder" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "run.json is not JSON; it was cut off or altered; remove it to plan again"),
        (b"\xff\xfe", "run.json is not JSON; it was cut off or altered; remove it to plan again"),
        (b'{"contractVersion": 99}', "run.json has contract version 99, and this program reads 2"),
        (b'{"contractVersion": 2}', "run.json is damaged at job"),
    ],
)
@pytest.mark.parametrize("command", ["run", "export", "publish"])
def test_a_damaged_run_is_named(finetune: Finetune, tiny: Tiny, tmp_path: Path, command: str, content: bytes, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/run.json").write_bytes(content)
    code, _, err = finetune(*(("run", tiny.job, "--run-folder", "folder") if command == "run" else (command, "folder")))
    assert code == 2
    assert f"run folder {tmp_path}/folder: {message}" in err


# --- the same for a machine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["plan", "none.yaml"], "InvalidSpec"),
        (["plan", "{job}", "--set", "training.globalBatchSize=9"], "InvalidSpec"),
        (["run", "none.yaml"], "InvalidSpec"),
        (["run", "{job}", "--set", "model.name=./none"], "InvalidModel"),
        (["run", "{job}", "--set", "dataset.sources.0.path=./none"], "InvalidData"),
        (["data", "preview", "./none.jsonl", "--tokenizer", "{tokenizer}"], "InvalidData"),
        (["data", "preview", "./none.jsonl", "--tokenizer", "none.json"], "InvalidModel"),
        (["data", "preview", "./none.jsonl"], "InvalidUsage"),
        (["data", "preview", "./none.jsonl", "--tokenizer", "{tokenizer}", "--format", "csv"], "InvalidUsage"),
        (["chat", "./none", "--once", "Hello?"], "InvalidModel"),
        (["chat", "./none", "--temperature", "-1"], "InvalidUsage"),
        (["export", "./none"], "RunConflict"),
        (["export", "./none", "--step", "last"], "InvalidUsage"),
        (["publish", "./none"], "RunConflict"),
    ],
)
def test_an_error_is_one_json_object_and_nothing_else(finetune: Finetune, tiny: Tiny, arguments: list[str], reason: str) -> None:
    code, out, err = finetune(*(argument.format(job=tiny.job, tokenizer=tiny.tokenizer) for argument in arguments), "--json")
    assert code == 2
    assert err == ""
    error: dict[str, Any] = json.loads(out)
    assert error.keys() == {"error", "message", "problems"}
    assert error["error"] == reason
    assert error["message"]
    assert bool(error["problems"]) == (reason == "InvalidSpec")


def test_a_wrong_job_is_described_by_validate(finetune: Finetune, tiny: Tiny, tmp_path: Path) -> None:
    """`validate` answers for each file, right or wrong, so its answer has a form of its own."""
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({"kind": "FineTuneJob"}))
    code, out, _ = finetune("validate", "wrong.yaml", tiny.job, "--json")
    assert code == 2
    found = json.loads(out)
    assert (found["valid"], [job["valid"] for job in found["jobs"]]) == (False, [False, True])
