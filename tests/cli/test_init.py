"""`finetune init`: every format becomes an accepted job, another trainer's file too; what can't be is refused; docs/begin.md typed."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.assistant.drafting.test_translation import AXOLOTL
from tests.cli.conftest import Finetune
from tests.conftest import ROOT
from tests.trainer.hub_server import HubServer

from finetune_api.jobfile import load_job
from finetune_trainer.preparation.prepare import prepare
from finetune_trainer.secrets import Secrets

SAYS = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Well."}]
NODE = {"lang": "en", "review_result": True, "deleted": False, "synthetic": False, "rank": 0}


def tree(number: int) -> dict[str, Any]:
    answer = {"message_id": f"a{number}", "parent_id": f"q{number}", "text": "Well.", "role": "assistant", "replies": [], **NODE}
    question = {"message_id": f"q{number}", "parent_id": None, "text": "How?", "role": "prompter", "replies": [answer], **NODE}
    return {"message_tree_id": f"q{number}", "tree_state": "ready_for_export", "prompt": question}


def flat(number: int) -> list[dict[str, Any]]:
    question = tree(number)["prompt"]
    return [{**node, "message_tree_id": f"q{number}", "tree_state": "ready_for_export"} for node in (question, *question["replies"])]


# Every format of docs/data.md, and two that have another file or shape: name -> what one row, or several, is.
FORMATS: dict[str, Callable[[int], Any]] = {
    "messages": lambda number: {"messages": SAYS},
    "sharegpt": lambda number: {"conversations": [{"from": "human", "value": f"How {number}?"}, {"from": "gpt", "value": "Well."}]},
    "prompt-completion": lambda number: {"prompt": f"How {number}?", "completion": "Well."},
    "conversational": lambda number: {"prompt": SAYS[:1], "completion": SAYS[1:]},
    "alpaca": lambda number: {"instruction": f"Say {number}", "input": "loud", "output": "Hi"},
    "dolly": lambda number: {"instruction": f"Say {number}", "context": "loud", "response": "Hi", "category": "open_qa"},
    "oasst": tree,
    "oasst-flat": flat,
    "text": lambda number: {"text": f"A document with the number {number}."},
    "tokenized": lambda number: {"input_ids": [5, 6, 7, number], "labels": [-100, 6, 7, number]},
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model in the folder that commands run in."""
    return shutil.copytree(ROOT / "examples/tiny", tmp_path / "base")


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_becomes_a_job_that_is_accepted(form: str, base: Path, tmp_path: Path, finetune: Finetune) -> None:
    rows = [FORMATS[form](number) for number in range(30)]
    write_rows(tmp_path / "data" / "rows.jsonl", [each for row in rows for each in row] if form == "oasst-flat" else rows)
    code, out, told = finetune("init", "--model", "base", "--data", "data", "--output", "job.yaml")
    assert (code, out) == (0, "wrote job.yaml\n")
    assert told == "next: finetune plan --here job.yaml finetune run job.yaml"
    text = (tmp_path / "job.yaml").read_text()
    known = {"conversational": "prompt-completion", "oasst-flat": "oasst"}.get(form, form)
    assert f"format {known}: {60 if form == 'oasst-flat' else 30} rows" in text
    assert len(text.splitlines()) <= 25
    assert finetune("validate", "job.yaml")[0] == 0
    assert finetune("plan", "job.yaml")[0] == finetune("plan", "--here", "job.yaml")[0] == 0


def test_csv_is_read_too_and_the_job_that_was_drafted_prepares(base: Path, tmp_path: Path, finetune: Finetune) -> None:
    lines = [f"Say {number},Hi" for number in range(40)] + ["x,"]
    (tmp_path / "rows.csv").write_text("\n".join(["prompt,completion", *lines]) + "\n")
    assert finetune("init", "-m", "base", "-d", "rows.csv", "-o", "job.yaml")[0] == 0
    job = load_job(tmp_path / "job.yaml", ["dataset.processes=1"])
    found = prepare(job, base=tmp_path, model_folder=base, folder=tmp_path / "prepared", secrets=Secrets({}))
    assert found.data_shape.evaluation is not None
    assert found.data_shape.train.dialogues + found.data_shape.evaluation.dialogues == 40


def test_paths_are_those_of_the_folder_that_the_job_is_in(base: Path, tmp_path: Path, finetune: Finetune) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"messages": SAYS}] * 3)
    (tmp_path / "jobs").mkdir()
    typed = ["init", "-m", "./base", "-d", "rows.jsonl", "-d", str(tmp_path / "rows.jsonl"), "--directory", "out", "-o", "jobs/a.yaml"]
    assert finetune(*typed)[0] == 0
    spec = load_job(tmp_path / "jobs/a.yaml").spec
    assert spec.model.name == "../base"
    assert [source.path for source in spec.dataset.sources] == ["../rows.jsonl", str(tmp_path / "rows.jsonl")]
    assert spec.publish.directory is not None
    assert spec.publish.directory.path == "../out"
    assert finetune("validate", "jobs/a.yaml")[0] == 0


def test_a_job_is_printed_for_a_pipe_and_for_a_machine(base: Path, tmp_path: Path, finetune: Finetune) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"messages": SAYS}, {"messages": [{"role": "oracle", "content": "x"}]}])
    typed = ["init", "-m", "base", "-d", "rows.jsonl", "--name", "mine"]
    code, out, told = finetune(*typed)
    assert code == 0
    assert "1 wrong rows; the first: ./rows.jsonl row 2: message 1: unknown role" in told
    assert told.endswith("next (the job saved as job.yaml): finetune plan --here job.yaml finetune run job.yaml")
    code, printed, told = finetune(*typed, "--json")
    assert (code, told) == (0, "")
    value = json.loads(printed)
    assert value["job"] == out
    assert value["next"] == ["finetune plan --here job.yaml", "finetune run job.yaml"]
    assert "carriedOver" not in value


def test_a_file_is_not_written_over(base: Path, tmp_path: Path, finetune: Finetune) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"messages": SAYS}])
    (tmp_path / "job.yaml").write_text("mine\n")
    typed = ["init", "-m", "base", "-d", "rows.jsonl", "-o", "job.yaml"]
    code, _, told = finetune(*typed)
    assert (code, (tmp_path / "job.yaml").read_text()) == (2, "mine\n")
    assert "--output job.yaml is there already; give --force" in told
    assert finetune(*typed, "--force")[0] == 0
    assert finetune("validate", "job.yaml")[0] == 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "--model and --data missing"),
        (["-m", "base"], "--data missing"),
        (["-m", "./gone", "-d", "rows.jsonl"], "./gone: gone is no directory"),
        (["-m", "base", "-d", "row.jsonl"], "no such file or folder (looked at"),
        (["-m", "base", "-d", "empty.jsonl"], "the file is empty"),
        (["-m", "base", "-d", "odd.jsonl"], "./odd.jsonl row 1: no known format has the columns 'q', 'a'"),
        (["-m", "base", "-d", "rows.jsonl", "--format", "alpaca"], "row 1: no column 'instruction'"),
        (["-m", "base", "-d", "rows.jsonl", "--name", "No Name"], "metadata.name"),
        (["-m", "base", "-d", "rows.jsonl", "--hub", "me"], "spec.publish.hub.repository"),
        (["-m", "base", "-d", "rows.jsonl", "--set", "colums.messages=x"], "did you mean"),
        (["-m", "base", "-d", "rows.jsonl", "--directory", "x", "--hub", "a/b"], "a job publishes to one"),
        (["-m", "base", "-d", "rows.jsonl", "--directory", "x", "--cluster"], "pods don't see"),
        (["-m", "base", "-d", "rows.jsonl", "-o", "gone/job.yaml"], "there is no folder gone"),
        (["-m", "base", "-d", "rows.jsonl", "-o", "base"], "is a folder"),
        (["--from", "data.yaml", "-m", "base", "--format", "alpaca"], "--format and --set are settings of --data"),
        (["--from", "gone.yaml"], "can't be read: No such file"),
        (["--from", "broken.yaml"], "is not YAML at line 1"),
        (["--from", "list.yaml"], "holds no settings"),
        (["--from", "odd.yaml"], "no key that we know of another trainer, but frobnicate"),
        (["--from", "job.yaml"], "is a FineTuneJob already"),
        (["--from", "model.yaml"], "names no data; give --data"),
        (["--from", "data.yaml"], "names no model; give --model"),
    ],
)
def test_wrong_input_is_refused(typed: list[str], said: str, base: Path, tmp_path: Path, finetune: Finetune) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"messages": SAYS}])
    write_rows(tmp_path / "odd.jsonl", [{"q": "x", "a": "y"}])
    texts = {"broken": "a: [", "list": "- 1", "odd": "frobnicate: 1", "job": "kind: FineTuneJob"}
    texts |= {"model": "base_model: base", "data": "datasets: [{path: rows.jsonl}]"}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "empty.jsonl").touch()
    before = sorted(tmp_path.rglob("*"))
    code, out, told = finetune("init", *typed)
    assert (code, out) == (2, "")
    assert said in told
    assert sorted(tmp_path.rglob("*")) == before


def test_an_axolotl_file_becomes_a_job_with_every_key_accounted_for(base: Path, tmp_path: Path, finetune: Finetune) -> None:
    (tmp_path / "theirs").mkdir()
    write_rows(
        tmp_path / "theirs/rows.jsonl", [{"conversations": [{"from": "human", "value": "How?"}, {"from": "gpt", "value": "So."}]}] * 30
    )
    chats = {**AXOLOTL["datasets"][0], "path": "rows.jsonl"}  # beside the file
    file = {**AXOLOTL, "base_model": "base", "datasets": [chats], "sequence_len": 256}
    (tmp_path / "theirs/axolotl.yaml").write_text(json.dumps(file))
    code, out, told = finetune("init", "--from", "theirs/axolotl.yaml", "-o", "job.yaml")
    assert (code, out) == (0, "wrote job.yaml\n")
    assert "not carried over: frobnicate: no key that we know" in told
    assert "keys carried over: base_model" in told
    text = (tmp_path / "job.yaml").read_text()
    assert len(text.splitlines()) <= 25
    assert "path: ./theirs/rows.jsonl" in text
    assert finetune("validate", "job.yaml")[0] == finetune("plan", "job.yaml")[0] == finetune("plan", "--here", "job.yaml")[0] == 0
    _, printed, _ = finetune("init", "--from", "theirs/axolotl.yaml", "--json")
    value = json.loads(printed)
    named = {*value["carriedOver"], *value["sameHere"], *value["leftOut"]}
    assert named == {*file, *(f"datasets[0].{key}" for key in chats)} - {"datasets"}


def test_options_go_before_another_trainer_s_file(base: Path, tmp_path: Path, finetune: Finetune) -> None:
    write_rows(tmp_path / "mine.jsonl", [{"messages": SAYS}] * 30)
    (tmp_path / "a.yaml").write_text("base_model: org/theirs\ndatasets: [{path: org/data}]\nmicro_batch_size: 2\noutput_dir: out\n")
    code, out, told = finetune("init", "--from", "a.yaml", "--model", "base", "--data", "mine.jsonl", "--gpus", "4", "--hub", "me/mine")
    assert code == 0
    assert "globalBatchSize: 8  # micro_batch_size 2 x 4 workers (--gpus)" in out
    (tmp_path / "job.yaml").write_text(out)
    spec = load_job(tmp_path / "job.yaml").spec
    assert (spec.model.name, spec.workers.gpus_per_node) == ("./base", 4)
    assert spec.publish.hub is not None
    assert spec.publish.directory is None
    assert "not carried over: base_model: --model names another" in told
    assert "not carried over: output_dir: another place was asked for" in told


def test_a_model_of_the_hub_is_looked_at(base: Path, tmp_path: Path, finetune: Finetune, hub: HubServer) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"messages": SAYS}] * 30)
    header = json.dumps({"transformer.wte.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}}).encode()
    files = {file.name: file.read_bytes() for file in base.iterdir()}
    hub.create("org/tiny", files | {"model.safetensors": len(header).to_bytes(8, "little") + header + bytes(8)})
    code, out, _ = finetune("init", "-m", "org/tiny", "-d", "rows.jsonl")
    assert code == 0
    assert "model: {name: org/tiny}  # GPTBigCodeForCausalLM" in out
    assert "maxSequenceLength: 256  # tokens of a row: all dialogues fit" in out
    code, _, told = finetune("init", "-m", "org/gone", "-d", "rows.jsonl")
    assert (code, "no such model on the Hub, or it is private" in told) == (2, True)


def test_a_hub_that_is_away_is_told_and_the_rest_is_drafted(tmp_path: Path, finetune: Finetune, hub: HubServer) -> None:
    hub.close()
    write_rows(tmp_path / "rows.jsonl", [{"messages": SAYS}] * 30)
    code, out, told = finetune("init", "-m", "org/tiny", "-d", "rows.jsonl", "-d", "org/chats")
    assert code == 0
    assert "note: the model is not looked at: model org/tiny: can't be fetched from the Hub" in told
    assert "note: the data is not looked at: org/chats: can't reach the Hub" in told
    assert "maxSequenceLength: 1024  # tokens of a packed row; lengths are not known yet" in out


def test_a_terminal_is_asked_for_what_is_missing(base: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"messages": SAYS}])
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "import sys; from finetune_cli.app import main; sys.exit(main())", "init", "-o", "job.yaml"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path) as process:
        os.close(theirs)
        os.write(ours, b"./base\nrows.jsonl\n")
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0, shown
    assert b"Base model (a folder, or org/name on the Hub)" in shown
    assert b"Data (a file or folder of dialogues, or org/name on the Hub)" in shown
    assert load_job(tmp_path / "job.yaml").spec.model.name == "./base"


def _read(terminal: int) -> bytes:
    """What a terminal shows next; nothing once its program has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_the_page_s_commands_work(base: Path, tmp_path: Path, finetune: Finetune) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"messages": SAYS}] * 30)
    (tmp_path / "axolotl.yaml").write_text("base_model: ./base\ndatasets: [{path: rows.jsonl, type: chat_template}]\nmicro_batch_size: 2\n")
    page = (ROOT / "docs/begin.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ finetune (.+)$", page, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        code, _, told = finetune(*command.split())
        assert code == 0, (command, told)


def test_a_setting_of_one_source_is_that_one_s_alone(base: Path, tmp_path: Path, finetune: Finetune) -> None:
    write_rows(tmp_path / "a.jsonl", [{"q": "How?", "a": "So."}])
    write_rows(tmp_path / "b.jsonl", [{"q": "How?", "a": "So."}])
    columns = [
        "--format",
        "prompt-completion",
        "--set",
        "columns.prompt=q",
        "--set",
        "columns.completion=a",
        "--set",
        "sources.1.weight=0.5",
    ]
    assert finetune("init", "-m", "base", "-d", "a.jsonl", "-d", "b.jsonl", *columns, "-o", "job.yaml")[0] == 0
    first, second = load_job(tmp_path / "job.yaml").spec.dataset.sources
    assert (first.weight, second.weight, first.columns.prompt, second.columns.completion) == (1.0, 0.5, "q", "a")
