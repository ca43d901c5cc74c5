"""`finetune data preview`: golden ids on the command line, wrong rows named, and both forms of output."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Tiny
from tests.trainer.chat_data import encoder, messages
from tests.trainer.preparation.test_labels import STARCODER_IDS, STARCODER_LABELS, TINY_IDS

from finetune_cli.app import main

GOLDEN = {
    "messages": [{"role": "user", "content": "Hello, can you help me?"}, {"role": "assistant", "content": "Sure, what can I do for you?"}]
}
BLOG = ["--template", "no_system", "--masking", "blog", "--no-system-turn", "--json"]


def rows_file(folder: Path, *rows: Any) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def previewed(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    """The objects that a successful `--json` prints."""
    assert main(["data", "preview", *map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.real_data
def test_the_golden_dialogue(tmp_path: Path, test_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows_file(tmp_path, GOLDEN)
    (found,) = previewed(capsys, file, "--format", "messages", "--tokenizer", test_data / "starcoder-tokenizer.json", *BLOG)
    assert found == {"source": str(file), "row": 1, **GOLDEN, "input_ids": STARCODER_IDS, "labels": STARCODER_LABELS}


@pytest.mark.real_data
def test_the_trees_of_open_assistant(test_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each dialogue against the text of its messages: nothing but answers and their ends is learnt, and the text is all there."""
    tokenizer = test_data / "starcoder-tokenizer.json"
    options = ["--format", "oasst", "--tokenizer", tokenizer, "--template", "no_system", "--json"]
    found = previewed(capsys, test_data / "oasst1_en_trees.jsonl", *options)
    decode = encoder(tokenizer, name="no_system").tokenizer.decode
    assert len(found) > 300
    for one in found:
        turns = [f"<|{message['role']}|>\n{message['content']}<|end|>\n" for message in one["messages"]]
        assert decode(one["input_ids"], skip_special_tokens=False) == "<|system|>\n<|end|>\n" + "".join(turns)
        learnt = decode([label for label in one["labels"] if label != -100], skip_special_tokens=False)
        assert learnt == "".join(f"{message['content']}<|end|>" for message in one["messages"] if message["role"] == "assistant")
        assert all(label in (-100, token) for label, token in zip(one["labels"], one["input_ids"], strict=True))


def test_the_golden_dialogue_of_the_tiny_tokenizer(tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tiny.tokenizer, tiny.model):
        (found,) = previewed(capsys, rows_file(tmp_path, GOLDEN), "--tokenizer", path, *BLOG)
        assert found["input_ids"] == TINY_IDS


def test_the_preview_shows_what_chat_would_send(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    found = previewed(capsys, tiny.dialogues, "--tokenizer", tiny.tokenizer, "--json", "--limit", "2")
    prompt = encoder(name="default").encode_prompt(messages(found[0]["messages"][0]["content"]))
    assert len(found) == 2
    assert found[0]["input_ids"][: len(prompt)] == prompt


def test_a_wrong_row_is_named_and_the_others_are_shown(tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows_file(tmp_path, GOLDEN, {"messages": [{"role": "oracle", "content": "x"}]}, GOLDEN)
    assert main(["data", "preview", str(file), "--tokenizer", str(tiny.tokenizer), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["row"] for line in out.splitlines()] == [1, 3]
    assert f"{file} row 2: message 1: unknown role 'oracle'" in err


def test_data_without_a_dialogue_is_wrong_input(tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows_file(tmp_path, {"messages": [{"role": "oracle", "content": "x"}]})
    assert main(["data", "preview", str(file), "--format", "messages", "--tokenizer", str(tiny.tokenizer)]) == 2
    assert "no dialogue to learn from; 1 x wrong row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["./nowhere.jsonl", "--tokenizer", "examples/tiny"], "nowhere.jsonl"),
        (["tests/data/tiny_dialogues.jsonl", "--tokenizer", "tests"], "tokenizer.json: no such file"),
        (["tests/data/tiny_dialogues.jsonl", "--tokenizer", "examples/tiny", "--template", "model"], "has no chat_template"),
        (["tests/data/tiny_dialogues.jsonl", "--tokenizer", "examples/tiny", "--template", "vicuna"], "vicuna"),
        (["tests/data/tiny_dialogues.jsonl", "--tokenizer", "examples/tiny", "--format", "oasst"], "no dialogue to learn from"),
        (["tests/data/tiny_dialogues.jsonl", "--tokenizer", "examples/tiny", "--template", "jinja"], "--jinja FILE go together"),
        (["tests/data/tiny_dialogues.jsonl", "--tokenizer", "examples/tiny", "--jinja", "README.md"], "--jinja FILE go together"),
    ],
)
def test_wrong_input(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "preview", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_an_s3_that_does_not_answer_is_told_with_what_can_be_changed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    assert main(["data", "preview", "s3://bucket/rows.jsonl", "--tokenizer", str(tiny.tokenizer)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "SOURCE=s3://bucket: can't reach http://127.0.0.1:9; correct AWS_ENDPOINT_URL, or start the server there" in said
    assert "spec." not in said


def test_the_text_form_marks_what_is_learnt(tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows_file(tmp_path, GOLDEN, {"messages": [*GOLDEN["messages"], {"role": "user", "content": "[bold]?"}]})
    assert main(["data", "preview", str(file), "--tokenizer", str(tiny.tokenizer), "--template", "no_system"]) == 0
    out = capsys.readouterr().out
    assert "<|assistant|>\n\u27e6Sure, what can I do for you?<|end|>\u27e7\n" in out
    assert "2 dialogues" in out
    assert "not used: 1 x trailing user turn" in out


@pytest.mark.real_data
def test_the_first_line_of_many_is_one_object_and_quiet(test_data: Path) -> None:
    """As typed: `finetune data preview ... --json | head -1`."""
    finetune = Path(sys.executable).with_name("finetune")
    options = "--format oasst --template no_system --json"
    files = f"{test_data}/oasst1_en_trees.jsonl --tokenizer {test_data}/starcoder-tokenizer.json"
    done = subprocess.run(f"{finetune} data preview {files} {options} | head -1", shell=True, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout).keys() == {"source", "row", "messages", "input_ids", "labels"}
    assert done.stderr == ""


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, tiny: Tiny) -> None:
    """`finetune data preview ... | head -1`."""
    file = rows_file(tmp_path, *[GOLDEN] * 2000)
    command = [sys.executable, "-m", "finetune_cli.app", "data", "preview", str(file), "--tokenizer", str(tiny.tokenizer), "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    json.loads(process.stdout.readline())
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    process.wait()
    assert "Error" not in errors
    assert "Traceback" not in errors


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}


def test_the_preview_says_per_row_what_was_left_out_and_what_is_not_read(
    tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    greeting = {"role": "assistant", "content": "Hello!"}
    trailing = {"messages": [greeting, *GOLDEN["messages"], {"role": "user", "content": "Thanks"}], "id": 7, "context": "c"}
    file = rows_file(tmp_path, GOLDEN, trailing)
    plain, told = previewed(capsys, file, "--tokenizer", tiny.tokenizer, "--json")
    assert plain.keys() == {"source", "row", "messages", "input_ids", "labels"}
    assert told["messages"] == GOLDEN["messages"]
    assert told["left_out"] == ["leading assistant turn", "trailing user turn"]
    assert told["not_read"][0].startswith("column 'context' is not read: text beside the dialogue")
    assert told["not_read"][1] == "columns that are not read: 'id'"
    assert main(["data", "preview", str(file), "--tokenizer", str(tiny.tokenizer)]) == 0
    out, err = capsys.readouterr()
    assert "left out: leading assistant turn" in out
    assert f"not used: 1 x leading assistant turn (first: {file} row 2)" in "".join(out.splitlines())
    assert "columns that are not read: 'id' (1 rows)" in err


def test_the_export_carries_tools_reasoning_and_flags_of_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [
        GOLDEN["messages"][0],
        {"role": "assistant", "content": "", "reasoning_content": "Look.", "tool_calls": [CALL], "train": False},
        {"role": "tool", "content": "12", "name": "weather", "tool_call_id": "c1"},
        {"role": "assistant", "content": "12 degrees."},
    ]
    file = tmp_path / "exported.jsonl"
    assert main(["data", "export", str(rows_file(tmp_path, {"messages": messages, "tools": [TOOL]})), "--output", str(file)]) == 0
    capsys.readouterr()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"messages": messages, "tools": [TOOL]}]


def test_text_and_tokens_are_shown_as_they_are(tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    (document,) = previewed(capsys, rows_file(tmp_path, {"text": "Hello, can you help me?"}), "--tokenizer", tiny.tokenizer, "--json")
    assert document["text"] == "Hello, can you help me?"
    assert document["labels"] == document["input_ids"]
    rows = rows_file(tmp_path, {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]})
    (tokens,) = previewed(capsys, rows, "--tokenizer", tiny.tokenizer, "--json")
    assert (tokens["input_ids"], tokens["labels"]) == ([5, 6, 7], [-100, 6, 7])
    assert "messages" not in tokens


def test_an_id_that_is_none_of_the_tokenizer_s(tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows_file(tmp_path, {"input_ids": [5, 10**6]})
    with file.open("a") as more:
        more.write(json.dumps({"input_ids": [5, 6]}) + "\n")
    assert main(["data", "preview", str(file), "--tokenizer", str(tiny.tokenizer), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["row"] for line in out.splitlines()] == [2]
    assert "row 1: column 'input_ids': 1000000 is no id of the tokenizer" in err


def test_fields_of_a_source_are_set_as_in_a_job(tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"turns": [{"speaker": "visitor", "says": "Hello?"}, {"speaker": "narrator", "says": "Yes."}]}
    fields = ["columns.messages=turns", "messagePropertyMappings.role=speaker", "messagePropertyMappings.content=says"]
    fields += ["roles.assistant=[narrator]", "roles.user=[visitor]"]
    options = [option for field in fields for option in ("--set", field)]
    (found,) = previewed(capsys, rows_file(tmp_path, row), "--tokenizer", tiny.tokenizer, "--json", "--format", "messages", *options)
    assert found["messages"] == [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("columns.turns=x", "columns.turns: there is no such field"),
        ("html=maybe", "html"),
        ("html", "has no `=`"),
        ("filter.topAnswers=2", "acts on format oasst only"),
    ],
)
def test_fields_of_a_source_that_are_wrong(field: str, said: str, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tokenizer", str(tiny.tokenizer), "--format", "messages", "--set", field]
    assert main(["data", "preview", str(tiny.dialogues), *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_what_does_not_fit_a_row_is_told_by_row_with_the_remedy(tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    long = [{"role": "user", "content": "why " * 200}, {"role": "assistant", "content": "Because."}, *GOLDEN["messages"]]
    file = rows_file(tmp_path, {"messages": long})
    (found,) = previewed(capsys, file, "--tokenizer", tiny.tokenizer, "--json", "--max-length", 128)
    assert main(["data", "preview", str(file), "--tokenizer", str(tiny.tokenizer), "--max-length", "128"]) == 0
    assert "1 dialogues, " in capsys.readouterr().out
    assert found["left_out"] == ["question and answer left out: the two do not fit a row (spec.training.maxSequenceLength)"]
    assert len(found["input_ids"]) <= 128


@pytest.mark.parametrize("name", ["tokens.jsonl", "tokens.parquet"])
def test_export_tokenized_and_reading_it_back_gives_the_same_ids(
    tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    options = ["--tokenizer", tiny.tokenizer, "--template", "no_system"]
    before = previewed(capsys, tiny.dialogues, *options, "--json")
    output = tmp_path / name
    assert main(["data", "export", str(tiny.dialogues), "--tokenized", *map(str, options), "--output", str(output), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"] == len(before)
    after = previewed(capsys, output, *options, "--json")
    assert [(one["input_ids"], one["labels"]) for one in after] == [(one["input_ids"], one["labels"]) for one in before]


def test_export_tokenized_divides_long_dialogues_as_training_does(tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    long = {"messages": GOLDEN["messages"] * 20}
    assert main(["data", "preview", str(rows_file(tmp_path, long)), "--tokenizer", str(tiny.tokenizer), "--max-length", "128"]) == 0
    assert re.search(r"\n1 dialogues in \d+ examples, ", capsys.readouterr().out)
    output = tmp_path / "tokens.jsonl"
    options = ["--tokenizer", str(tiny.tokenizer), "--template", "no_system", "--output", str(output), "--max-length", "128"]
    assert main(["data", "export", str(rows_file(tmp_path, long)), "--tokenized", *options]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) > 1
    assert all(len(row["input_ids"]) <= 128 and row["attention_mask"] == [1] * len(row["input_ids"]) for row in rows)
    assert f"{len(rows)} rows are in {output}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output", "x.jsonl", "--tokenized"], "--tokenized and --tokenizer PATH go together"),
        (["--output", "x.jsonl", "--tokenizer", "examples/tiny"], "--tokenized and --tokenizer PATH go together"),
        (["--output", "x.jsonl", "--max-length", "9"], "--max-length with both"),
        (["--output", "x.txt"], "the name must end with .jsonl or .parquet"),
        (["--output", "x.csv", "--tokenized", "--tokenizer", "examples/tiny"], "the name must end with .jsonl or .parquet"),
        (["--output", "nowhere/x.jsonl"], "there is no folder nowhere; make it"),
    ],
)
def test_wrong_options_of_export(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "export", "tests/data/tiny_dialogues.jsonl", *options]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_an_export_of_nothing_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows_file(tmp_path, {"messages": [{"role": "oracle", "content": "x"}]})
    assert main(["data", "export", str(file), "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "no dialogue to learn from; 1 x wrong row" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]
