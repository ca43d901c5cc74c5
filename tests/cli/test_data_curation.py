"""`finetune data inspect`, `export` with choices, and `publish`, as they are typed; and docs/curation.md, word for word."""

import csv
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.assistant.curation.dataset_repository import WRITE, DatasetHub, dataset_hub
from tests.assistant.curation.rows import sentence
from tests.cli.conftest import Finetune
from tests.conftest import ROOT

GERMAN = "Wie sortiere ich eine Liste von Wörtern nach ihrer Länge?"
ENGLISH = "How do I sort a list of words by their length, please?"


def chat(*contents: str, **columns: Any) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(contents)], **columns}


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def node(role: str, text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"message_id": text, "role": role, "text": text, "lang": "en", "replies": list(replies), **more}


TREE = {
    "message_tree_id": "t1",
    "tree_state": "ready_for_export",
    "prompt": node(
        "prompter",
        "Which answer is the best of these?",
        node("assistant", "The second best answer.", rank=1),
        node("assistant", "The best answer of all.", rank=0),
        node("assistant", "A rejected answer.", rank=2, review_result=False),
    ),
}
ROWS = [
    chat(ENGLISH, "Call sorted with the key len, and you get a new list of them."),
    chat(GERMAN, "Mit sorted und len als Schlüssel bekommt man eine neue Liste."),
    chat(ENGLISH.lower(), "Call sorted with the key len and you get a new list of them!"),
    chat("Ok?", "Ok."),
    chat("Something short, and then something long in English:", sentence(30, 5)),
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What docs/curation.md speaks of."""
    write_rows(tmp_path / "chats.jsonl", *ROWS)
    write_rows(tmp_path / "trees.jsonl", TREE)
    write_rows(tmp_path / "questions.jsonl", {"question": sentence(30, 5)})
    (tmp_path / "base").symlink_to(ROOT / "examples/tiny")
    return tmp_path


def test_inspect_for_machines(files: Path, finetune: Finetune) -> None:
    write_rows(files / "chats.jsonl", *ROWS, {"messages": [{"role": "oracle", "content": "x"}]})
    code, out, err = finetune("data", "inspect", "chats.jsonl", "--json", "--decontaminate", "questions.jsonl", "--hits", "hits.jsonl")
    assert code == 0
    found = json.loads(out)
    assert found["rows"] == 5
    assert found["turns"]["total"] == 10
    assert found["languages"]["de"] == 1
    assert found["languages"]["too short to tell its language"] == 1
    assert found["nearDuplicates"] == {"rows": 1, "share": 0.2}
    assert found["evaluationSets"] == {"rows": 1, "hits": 1}
    assert found["notUsed"] == {"wrong row": 1}
    assert "chats.jsonl row 6: message 1: unknown role 'oracle'" in err
    assert read_rows(files / "hits.jsonl") == [
        {"source": "./chats.jsonl", "row": 5, "evaluation_set": "questions.jsonl", "document": 1, "words": sentence(30, 5)}
    ]


def test_inspect_for_people(files: Path, finetune: Finetune) -> None:
    code, out, _ = finetune("data", "inspect", "chats.jsonl", "trees.jsonl", "--tokenizer", "base", "--html", "page.html", "--no-languages")
    assert code == 0
    assert re.search(r"^7 rows: 7 dialogues$", out, re.MULTILINE)
    assert re.search(r"^tokens of an example +\d+", out, re.MULTILINE)
    assert re.search(r"^learnt: [\d.]+% of all tokens$", out, re.MULTILINE)
    assert "messages: user 7 (50.0%), assistant 7 (50.0%)" in out
    assert "not used: 1 x reviewers rejected a message of the path (first: ./trees.jsonl row 1)" in out
    assert "languages" not in out
    page = (files / "page.html").read_text()
    assert page.count("<svg") == 4
    assert "./trees.jsonl" in page


def test_inspect_agrees_with_the_preview_about_tokens(files: Path, finetune: Finetune) -> None:
    options = ("--tokenizer", "base", "--template", "no_system", "--json")
    _, previewed, _ = finetune("data", "preview", "chats.jsonl", *options)
    _, inspected, _ = finetune("data", "inspect", "chats.jsonl", "--no-languages", "--no-near-duplicates", *options)
    shown = [json.loads(line) for line in previewed.splitlines()]
    tokens = json.loads(inspected)["tokens"]
    assert tokens["total"] == sum(len(row["input_ids"]) for row in shown)
    assert tokens["supervised"] == sum(label != -100 for row in shown for label in row["labels"])


@pytest.mark.parametrize(
    ("options", "kept", "reason"),
    [
        (["--language", "de"], [2, 4], "in another language"),
        (["--deduplicate"], [1, 2, 4, 5], "near-duplicate of an earlier row"),
        (["--similarity", "0.9"], [1, 2, 4, 5], "near-duplicate of an earlier row"),
        (["--decontaminate", "questions.jsonl"], [1, 2, 3, 4], "holds words of an evaluation set"),
        (["--min-characters", "20"], [1, 2, 3, 5], "fewer than 20 characters"),
        (["--max-tokens", "40", "--tokenizer", "base", "--template", "no_system"], [4], "more than 40 tokens"),
        (["--limit", "2", "--min-characters", "115"], [1, 2], None),
    ],
)
def test_export_of_what_was_chosen(files: Path, finetune: Finetune, options: list[str], kept: list[int], reason: str | None) -> None:
    code, out, _ = finetune("data", "export", "chats.jsonl", "--output", "out.jsonl", "--json", *options)
    assert code == 0
    assert read_rows(files / "out.jsonl") == [ROWS[row - 1] for row in kept]
    assert json.loads(out)["rows"] == len(kept)
    assert json.loads(out)["not_used"] == ({reason: 5 - len(kept)} if reason else {})


def test_rows_that_share_words_with_a_set_can_be_kept_and_are_listed(files: Path, finetune: Finetune) -> None:
    export = ("data", "export", "chats.jsonl", "--output", "out.jsonl", "--decontaminate", "questions.jsonl")
    code, _, err = finetune(*export, "--keep-contaminated", "--hits", "hits.jsonl")
    assert code == 0
    assert len(read_rows(files / "out.jsonl")) == 5
    assert f"./chats.jsonl row 5 shares with questions.jsonl document 1: {sentence(30, 5)}" in err
    assert [hit["row"] for hit in read_rows(files / "hits.jsonl")] == [5]


def test_of_a_tree_the_best_answers_are_followed(files: Path, finetune: Finetune) -> None:
    for number, answers in ((1, ["The best answer of all."]), (2, ["The second best answer.", "The best answer of all."])):
        assert finetune("data", "export", "trees.jsonl", "--output", "out.jsonl", "--best-ranked", number)[0] == 0
        assert [row["messages"][1]["content"] for row in read_rows(files / "out.jsonl")] == answers


def test_prompts_are_written_once(files: Path, finetune: Finetune) -> None:
    code, out, _ = finetune("data", "export", "chats.jsonl", "trees.jsonl", "--prompts-only", "--output", "out.jsonl", "--json")
    assert code == 0
    asked = [row["messages"][0]["content"] for row in ROWS]
    assert read_rows(files / "out.jsonl") == [{"prompt": text} for text in [*asked, "Which answer is the best of these?"]]
    assert json.loads(out)["not_used"]["its prompt was met before"] == 1


def test_sources_are_mixed_by_their_weights_as_a_job_mixes_them(tmp_path: Path, finetune: Finetune) -> None:
    from finetune_trainer.data.mixture import copies

    names = [f"tree {number}" for number in range(40)]
    write_rows(tmp_path / "a.jsonl", *[chat(f"A{name}", "yes", message_tree_id=name) for name in names])
    write_rows(tmp_path / "b.jsonl", *[chat(f"B{name}", "no", message_tree_id=name) for name in names[:3]])
    options = ("--set", "sources.0.weight=0.25", "--set", "sources.1.weight=2", "--seed", "7", "--deduplicate")
    code, out, _ = finetune("data", "export", "a.jsonl", "b.jsonl", "--output", "out.jsonl", "--json", *options)
    assert code == 0
    asked = [row["messages"][0]["content"] for row in read_rows(tmp_path / "out.jsonl")]
    drawn = copies(names, 0.25, 7)
    assert asked[:10] == [f"A{name}" for name in names if drawn[name]]
    assert asked[10:] == [f"B{name}" for name in names[:3] for _ in range(2)]
    assert json.loads(out)["not_used"] == {"not drawn for its source's weight": 30}


def test_a_seed_shuffles_and_the_same_command_writes_the_same_file(files: Path, finetune: Finetune) -> None:
    for name in ("one.parquet", "two.parquet"):
        options = ("--shuffle", "--seed", "3", "--deduplicate", "--language", "en")
        assert finetune("data", "export", "chats.jsonl", "trees.jsonl", "--output", name, *options)[0] == 0
    assert (files / "one.parquet").read_bytes() == (files / "two.parquet").read_bytes()


def test_tokens_of_what_was_chosen(files: Path, finetune: Finetune) -> None:
    options = ("--tokenized", "--tokenizer", "base", "--template", "no_system", "--deduplicate", "--shuffle", "--html", "page.html")
    code, out, _ = finetune("data", "export", "chats.jsonl", "--output", "out.parquet", "--json", *options)
    assert code == 0
    assert json.loads(out)["rows"] == 4
    assert "Tokens of an example" in (files / "page.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--language", "english"], "--language english: no code of ISO 639 that the detector knows; is it en?"),
        (["--similarity", "0.2"], "--similarity 0.2: give a share from 0.5 to 0.95"),
        (["--min-turns", "4", "--max-turns", "2"], "--min-turns 4 is more than --max-turns 2"),
        (["--decontaminate", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
        (["--decontaminate", "nowhere"], "nowhere: there is no such file"),
        (["--output", "chats.jsonl"], "--output chats.jsonl is a file that is read, and would be lost; give another name"),
        (["--hits", "./chats.jsonl"], "--hits chats.jsonl is a file that is read"),
        (["--decontaminate", "base"], "base: no evaluation set of a known format"),
        (["--keep-contaminated"], "name them with --decontaminate FILE"),
        (["--max-tokens", "9"], "--max-tokens 9: tokens are counted by a tokenizer; name it with --tokenizer PATH"),
        (["--tokenizer", "base"], "without --tokenized a tokenizer serves --max-tokens"),
        (["--best-ranked", "1"], "filter.topAnswers ranks the answers of OASST trees"),
        (["--set", "sources.1.weight=2"], "there are 1 sources, and the first is sources.0"),
        (["--set", "sources.0.weight=0"], "weight"),
        (["--tokenized", "--prompts-only", "--tokenizer", "base"], "give one"),
        (["--hits", "nowhere/hits.jsonl"], "--hits nowhere/hits.jsonl: there is no folder nowhere; make it"),
        (["--seed", str(2**32), "--deduplicate"], "less than or equal to 4294967295"),
        (["--html", "base"], "--html base is a folder"),
        (["--min-characters", "100000"], "no dialogue to learn from; 5 x fewer than 100,000 characters"),
    ],
)
def test_wrong_options_write_nothing(files: Path, finetune: Finetune, options: list[str], said: str) -> None:
    before = sorted(files.iterdir())
    code, _, err = finetune("data", "export", "chats.jsonl", "--output", "out.jsonl", *options)
    assert code == 2
    assert said in err.replace("\u2502 ", "")
    assert sorted(files.iterdir()) == before


def test_rows_of_tokens_have_no_text_to_choose_by(files: Path, finetune: Finetune) -> None:
    write_rows(files / "tokens.jsonl", {"input_ids": [5, 6], "labels": [-100, 6]})
    code, _, err = finetune("data", "export", "tokens.jsonl", "--output", "out.jsonl", "--deduplicate")
    assert code == 2
    assert "tokens.jsonl row 1: the row is tokens, which have no text" in err
    assert finetune("data", "export", "tokens.jsonl", "--output", "out.jsonl")[0] == 0
    code, out, _ = finetune("data", "inspect", "tokens.jsonl", "--json")
    assert code == 0
    assert json.loads(out)["tokens"]["supervised"] == 1
    assert read_rows(files / "out.jsonl") == [{"input_ids": [5, 6], "labels": [-100, 6]}]


def test_without_the_extra_the_command_says_how_to_get_it(files: Path, finetune: Finetune, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("datasketch", "py3langid"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    install = "pip install 'finetune-operator[assistant]'"
    for option, module in ((["--deduplicate"], "datasketch"), (["--language", "en"], "py3langid")):
        code, _, err = finetune("data", "export", "chats.jsonl", "--output", "out.jsonl", *option)
        assert code == 2
        assert f"{option[0]} needs {module}, which isn't installed: {install}" in err
    code, out, err = finetune("data", "inspect", "chats.jsonl", "--json")
    assert code == 0
    assert f"languages are not looked at: {install}" in err
    assert json.loads(out).keys().isdisjoint({"languages", "nearDuplicates"})
    assert finetune("data", "inspect", "chats.jsonl", "--near-duplicates")[0] == 2


@pytest.fixture
def data_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DatasetHub]:
    """A Hub on loopback at the address that huggingface_hub uses by itself, and a token in the environment."""
    with dataset_hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", WRITE)
        yield server


def test_publish_to_the_hub(files: Path, finetune: Finetune, data_hub: DatasetHub) -> None:
    options = ("--license", "cc-by-4.0", "--language", "en", "--deduplicate", "--decontaminate", "questions.jsonl", "--json")
    code, out, _ = finetune("data", "publish", "chats.jsonl", "--hub", "ann/chats", *options)
    assert code == 0
    said = json.loads(out)
    assert said["rows"] == 2
    assert said["url"] == f"{data_hub.url}/datasets/ann/chats"
    assert said["revision"] == data_hub.repositories["ann/chats"].branches["main"]
    card = data_hub.files("ann/chats")["README.md"].decode()
    assert "license: cc-by-4.0" in card
    assert "- no 13 words in a row from questions.jsonl" in card
    assert "| 1 | near-duplicate of an earlier row |" in card
    assert str(files) not in card


def test_datasets_loads_a_published_folder(files: Path, finetune: Finetune) -> None:
    import datasets

    assert finetune("data", "publish", "chats.jsonl", "--license", "other", "--directory", "published")[0] == 0
    rows = datasets.load_dataset(str(files / "published"), split="train", cache_dir=str(files / "cache"))
    assert list(rows) == ROWS
    assert finetune("data", "publish", "trees.jsonl", "--license", "other", "--directory", "published")[0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--license", "mit"], "give --hub ORG/NAME or --directory DIR"),
        (["--license", "mit", "--hub", "a/b", "--directory", "c"], "give --hub ORG/NAME or --directory DIR"),
        (["--license", "mit", "--hub", "chats"], "--hub chats: names no organisation or user"),
        (["--license", " ", "--directory", "c"], "--license is empty"),
        (["--directory", "c"], "--license"),
        (["--license", "mit", "--directory", "c", "--public"], "--public and --message are for the Hub"),
        (["--license", "mit", "--directory", "base"], "holds no data set of ours"),
        (["--license", "mit", "--directory", "s3://bucket/c"], "is an address, and no folder"),
        (["--license", "mit", "--hub", "eve/chats"], "eve/chats can't be created with the token of ann"),
    ],
)
def test_wrong_places_are_refused_before_rows_are_read(
    files: Path, finetune: Finetune, data_hub: DatasetHub, options: list[str], said: str
) -> None:
    code, _, err = finetune("data", "publish", "no-rows.jsonl", *options)
    assert code == 2
    assert said in err
    assert data_hub.repositories == {}


def commands() -> list[str]:
    page = (ROOT / "docs/curation.md").read_text(encoding="utf-8")
    return re.findall(r"^\$ finetune (.+?)(?:  +#.*)?$", page, re.MULTILINE)


def test_the_page_s_commands_do_what_it_says(files: Path, finetune: Finetune) -> None:
    assert len(commands()) >= 8
    for command in commands():
        code, _, err = finetune(*shlex.split(command))
        assert code == 0, f"{command}: {err}"
    assert [row["messages"][1]["content"] for row in read_rows(files / "best.jsonl")] == ["The best answer of all."]
    assert (files / "page.html").exists()
    assert len(read_rows(files / "clean.jsonl")) == 4
    assert [hit["row"] for hit in read_rows(files / "hits.jsonl")] == [5]
    assert read_rows(files / "prompts.jsonl")[0] == {"prompt": ENGLISH}
    assert "license: apache-2.0" in (files / "published/README.md").read_text()


def test_csv_rows_of_one_turn(tmp_path: Path, finetune: Finetune) -> None:
    with (tmp_path / "alpaca.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["instruction", "input", "output"], ["Add", "1 and 2", "3"]])
    assert finetune("data", "export", "alpaca.csv", "--output", "out.jsonl", "--min-turns", 2)[0] == 0
    assert read_rows(tmp_path / "out.jsonl") == [chat("Add\n\n1 and 2", "3")]
