"""Preparation: from files to a store; the split, mixtures, repeated messages, refusals, and the same bytes from any number of processes."""

import dataclasses
import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Tiny
from tests.trainer.chat_data import ROOT, TINY_MODEL, dialogue, encoder, job

from finetune_api.errors import InvalidData, InvalidModel, RunFailed, StorageFailed
from finetune_api.finetunejob import FineTuneJob, TemplateSpec
from finetune_trainer.preparation.encoding import Chunk, Encoding, encode_chunks
from finetune_trainer.preparation.packing import pack
from finetune_trainer.preparation.prepare import Prepared, prepare
from finetune_trainer.preparation.store import PreparedData
from finetune_trainer.reporting.events import Event, Notice, StageAdvanced, StageStarted
from finetune_trainer.secrets import Secrets
from finetune_trainer.templates.registry import template_from_json

NUMBER_OF_TINY_DIALOGUES = 66

DAY = date(2026, 1, 2)


def run(wanted: FineTuneJob, folder: Path, *, model: Path = TINY_MODEL, events: list[Event] | None = None) -> Prepared:
    record = events.append if events is not None else lambda event: None
    return prepare(wanted, base=folder, model_folder=model, folder=folder / "prepared", secrets=Secrets({}), on_progress=record)


def write_rows(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def talk(*contents: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)], **more}


def talks(count: int, **more: Any) -> list[dict[str, Any]]:
    return [talk(f"question {number}", f"answer {number}", **more) for number in range(count)]


def learnt(prepared: Prepared, side: Any = "train") -> list[str]:
    """The supervised text of each example."""
    tokenizer = encoder(name="no_system").tokenizer
    data = PreparedData.open(prepared.folder, side)
    return [
        tokenizer.decode(
            [int(token) for token, mark in zip(data.ids(index), data.supervised(index), strict=True) if mark], skip_special_tokens=False
        )
        for index in range(data.num_examples)
    ]


def answers(prepared: Prepared, side: Any = "train") -> list[str]:
    """Answers without their end tokens."""
    return [answer for text in learnt(prepared, side) for answer in text.split("<|end|>")[:-1]]


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def oasst_tree(name: str, replies: int = 2) -> dict[str, Any]:
    """A tree with one answer to the first message, two follow-ups, and an answer to each."""

    def node(key: str, role: str, text: str, children: list[Any]) -> dict[str, Any]:
        return {
            "message_id": f"{name}-{key}",
            "text": text,
            "role": role,
            "lang": "en",
            "deleted": False,
            "synthetic": False,
            "replies": children,
        }

    ends = [node(f"q{i}", "prompter", f"{name} more {i}", [node(f"a{i}", "assistant", f"{name} reply {i}", [])]) for i in range(replies)]
    first = node("a", "assistant", f"{name} shared", ends)
    return {"message_tree_id": name, "tree_state": "ready_for_export", "prompt": node("q", "prompter", f"{name} asks", [first])}


# What is stored


def test_a_file_becomes_a_store_of_all_its_answers(tmp_path: Path, tiny: Tiny) -> None:
    prepared = run(job([{"path": str(tiny.dialogues)}], max_length=512), tmp_path)
    rows = [json.loads(line) for line in tiny.dialogues.read_text(encoding="utf-8").splitlines()]
    expected = [message["content"] for row in rows for message in row["messages"] if message["role"] == "assistant"]
    assert answers(prepared) == expected
    assert prepared.data_shape.train.dialogues == NUMBER_OF_TINY_DIALOGUES == len(rows)
    assert prepared.data_shape.evaluation is None
    assert not prepared.reused


def test_the_shape_counts_what_is_stored(tmp_path: Path, tiny: Tiny) -> None:
    prepared = run(job([{"path": str(tiny.dialogues)}], max_length=96, template={"name": "no_system", "masking": "blog"}), tmp_path)
    data, shape = PreparedData.open(prepared.folder, "train"), prepared.data_shape.train
    assert shape.segments == data.num_examples
    assert shape.segments > shape.dialogues
    assert shape.tokens == data.num_tokens == data.lengths.sum()
    assert shape.supervised_tokens == data.supervised_counts.sum()
    assert shape.supervised_tokens == sum(int((data.labels(index)[1:] != -100).sum()) for index in range(data.num_examples))
    assert shape.squared_lengths == (data.lengths**2).sum()
    assert shape.rows == pack(data.lengths, 96).num_rows
    assert data.lengths.max() <= 96


def test_the_template_is_stored_with_its_ids(tmp_path: Path, tiny: Tiny) -> None:
    prepared = run(job([{"path": str(tiny.dialogues)}]), tmp_path)
    stored = template_from_json((prepared.folder / "dialogue_template.json").read_text(encoding="utf-8"))
    assert stored == encoder(name="no_system").template


def test_the_same_job_uses_the_store_again(tmp_path: Path, tiny: Tiny) -> None:
    events: list[Event] = []
    first = run(job([{"path": str(tiny.dialogues)}]), tmp_path)
    second = run(job([{"path": str(tiny.dialogues)}], processes=2), tmp_path, events=events)
    assert second.reused
    assert (second.folder, second.data_shape, second.statistics) == (first.folder, first.data_shape, first.statistics)
    assert [type(event) for event in events if "used again" in str(event)] == [Notice]


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 64},
        {"template": {"name": "default"}},
        {"template": {"name": "no_system", "tokenOrder": "published"}},
        {"overlong_turns": "cut"},
        {"evaluation": {"fraction": 0.1}},
    ],
)
def test_what_shapes_rows_gives_another_fingerprint(tmp_path: Path, tiny: Tiny, change: dict[str, Any]) -> None:
    sources = [{"path": str(tiny.dialogues)}]
    before, after = run(job(sources), tmp_path), run(job(sources, **change), tmp_path)
    assert before.data_shape.fingerprint != after.data_shape.fingerprint
    assert not after.reused


def test_a_changed_file_gives_another_fingerprint(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", talks(3))
    before = run(job([{"path": str(file)}]), tmp_path)
    write_rows(file, talks(4))
    assert run(job([{"path": str(file)}]), tmp_path).data_shape.fingerprint != before.data_shape.fingerprint


def test_an_altered_store_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    prepared = run(job([{"path": str(tiny.dialogues)}]), tmp_path)
    ids = prepared.folder / "train.ids.bin"
    ids.write_bytes(b"\x01" + ids.read_bytes()[1:])
    with pytest.raises(StorageFailed, match=r"train\.ids\.bin is not what was written"):
        run(job([{"path": str(tiny.dialogues)}]), tmp_path)


@pytest.mark.parametrize("alone", [0, 3])
def test_any_number_of_processes_gives_the_same_examples(alone: int) -> None:
    encoding = Encoding(tokenizer=TINY_MODEL, template=TemplateSpec(name="no_system"), max_length=48, overlong_turns="cut", day=DAY)
    chunks = [many_turns(chunk) for chunk in range(12)]
    one, many = (list(encode_chunks(chunks, encoding, encoding.encoder(), count, alone=alone)) for count in (1, 2))
    assert [chunk for chunk, _ in many] == chunks
    for (_, ours), (_, theirs) in zip(one, many, strict=True):
        for part in dataclasses.fields(ours):
            assert np.array_equal(getattr(ours, part.name), getattr(theirs, part.name))


def many_turns(chunk: int) -> Chunk:
    """Dialogues of different lengths, some longer than a row, each used once or twice."""
    dialogues = [
        dialogue(*[f"turn {row} {turn} " * (1 + row % 5) for turn in range(2 + 2 * (row % 4))], row=row) for row in range(chunk, chunk + 30)
    ]
    return Chunk(side="train", part=0, dialogues=dialogues, known=[frozenset()] * 30, copies=[1 + row % 2 for row in range(30)])


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    """Its tokenizer is gone: the others find out, and nobody waits for ever."""
    folder = tmp_path / "model"
    shutil.copytree(TINY_MODEL, folder)
    encoding = Encoding(tokenizer=folder, template=TemplateSpec(name="no_system"), max_length=48, overlong_turns="cut", day=DAY)
    ours = encoding.encoder()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RunFailed, match="a process that tokenises died"):
        list(encode_chunks([many_turns(0)], encoding, ours, 2, alone=0))


def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path) -> None:
    """Several chunks, over-long dialogues and a drawn split among them."""
    rows = [talk(*[f"turn {number} {turn} " * (1 + number % 5) for turn in range(2 + 2 * (number % 3))]) for number in range(900)]
    file = write_rows(tmp_path / "many.jsonl", rows)
    wanted = [job([{"path": str(file), "weight": 1.5}], evaluation={"fraction": 0.2}, processes=count) for count in (1, 3)]
    one, many = (run(each, tmp_path / f"processes {each.spec.dataset.processes}") for each in wanted)
    assert files(one.folder) == files(many.folder)
    assert one.data_shape.train.dialogues > 900


# The split and the mixture


def test_a_fraction_of_trees_is_held_out(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "trees.jsonl", [oasst_tree(f"t{number}") for number in range(20)])
    prepared = run(job([{"path": str(file), "format": "oasst"}], evaluation={"fraction": 0.25}), tmp_path)
    train, evaluation = ({answer.split()[0] for answer in answers(prepared, side)} for side in ("train", "evaluation"))
    assert len(evaluation) == 5
    assert train.isdisjoint(evaluation)
    assert len(train | evaluation) == 20
    assert prepared.statistics["trees"] == {"train": 15, "evaluation": 5}


def test_a_named_split_is_held_out_and_its_trees_are_not_trained(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "train.jsonl", talks(10))
    write_rows(folder / "test.jsonl", talks(12)[8:])
    prepared = run(job([{"path": str(folder)}], evaluation={"split": "test"}), tmp_path)
    assert answers(prepared) == [f"answer {number}" for number in range(8)]
    assert answers(prepared, "evaluation") == [f"answer {number}" for number in range(8, 12)]
    assert prepared.statistics["sources"][0]["dropped"] == {"its conversation is in the evaluation split": 2}


@pytest.mark.parametrize(("weight", "expected"), [(0.5, 10), (1.0, 20), (2.0, 40), (2.5, 50)])
def test_weights_repeat_or_halve_a_source(tmp_path: Path, weight: float, expected: int) -> None:
    file = write_rows(tmp_path / "a.jsonl", talks(20))
    other = write_rows(tmp_path / "b.jsonl", talks(3, tree="b"))
    sources = [{"path": str(file), "weight": weight}, {"path": str(other), "columns": {"tree": "tree"}}]
    prepared = run(job(sources), tmp_path)
    assert prepared.data_shape.train.dialogues == expected + 3
    assert [source["dialogues"] for source in prepared.statistics["sources"]] == [expected, 3]


def test_held_out_dialogues_are_not_repeated(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", talks(20))
    prepared = run(job([{"path": str(file), "weight": 3.0}], evaluation={"fraction": 0.5}), tmp_path)
    assert len(answers(prepared, "evaluation")) == 10
    assert len(answers(prepared)) == 30


def test_a_limit_counts_dialogues(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", talks(20))
    assert run(job([{"path": str(file), "limit": 7}]), tmp_path).data_shape.train.dialogues == 7


def test_a_shared_answer_is_learnt_in_every_path_or_once(tmp_path: Path) -> None:
    """Bug 15 of the published code: paths of a tree repeat their beginnings."""
    file = write_rows(tmp_path / "trees.jsonl", [oasst_tree("t0"), oasst_tree("t1")])
    sources = [{"path": str(file), "format": "oasst"}]
    every, once = (answers(run(job(sources, repeated_messages=how), tmp_path)) for how in ("every", "once"))
    assert every == [f"t{tree} {text}" for tree in range(2) for text in ("shared", "reply 0", "shared", "reply 1")]
    assert once == [f"t{tree} {text}" for tree in range(2) for text in ("shared", "reply 0", "reply 1")]


def test_turns_after_the_last_answer_are_trimmed_or_kept(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [talk("q", "a", "an open question")])
    trimmed, kept = (run(job([{"path": str(file)}], trailing_user_turns=how), tmp_path) for how in ("trim", "keep"))
    assert answers(trimmed) == answers(kept) == ["a"]
    assert trimmed.data_shape.train.tokens < kept.data_shape.train.tokens
    assert trimmed.statistics["sources"][0]["dropped"] == {"trailing user turn": 1}


# What is refused, dropped, and told


def test_one_bad_row_in_ten_thousand_is_named(tmp_path: Path) -> None:
    rows: list[Any] = talks(10_000)
    rows[6_789] = talk("q", "a", "q", "")
    file = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(InvalidData, match=r"a\.jsonl row 6790: message 4 \(assistant\): the text is empty"):
        run(job([{"path": str(file)}]), tmp_path)
    assert not list((tmp_path / "prepared").glob("*"))
    prepared = run(job([{"path": str(file)}], max_invalid_rows=1), tmp_path)
    assert prepared.data_shape.train.dialogues == 9_999
    assert prepared.statistics["sources"][0]["places"] == {"message 4 (assistant): the text is empty": [f"{file} row 6790"]}


def test_the_limit_of_wrong_rows_is_for_all_sources_together(tmp_path: Path) -> None:
    names = [str(write_rows(tmp_path / f"{name}.jsonl", [*talks(2), talk("")])) for name in "ab"]
    with pytest.raises(InvalidData, match=r"b\.jsonl row 3"):
        run(job([{"path": name, "format": "messages"} for name in names], max_invalid_rows=1), tmp_path)


def test_data_without_a_supervised_token_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [talk("q", "a long answer " * 40)])
    with pytest.raises(InvalidData, match=r"training data has no supervised token(?s:.*)1 x answer longer than a row"):
        run(job([{"path": str(file)}], max_length=32), tmp_path)


def test_evaluation_data_without_a_supervised_token_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "train.jsonl", talks(3))
    write_rows(folder / "test.jsonl", [talk("other", "a long answer " * 40)])
    with pytest.raises(InvalidData, match="evaluation data has no supervised token"):
        run(job([{"path": str(folder)}], evaluation={"split": "test"}, max_length=32), tmp_path)


def test_a_wrong_tokenizer_is_refused_before_data_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"tokenizer\.json: no such file"):
        run(job([{"path": "./nowhere.jsonl"}]), tmp_path, model=tmp_path)


def test_long_dialogues_are_counted(tmp_path: Path) -> None:
    rows = [
        talk("q", "a long answer " * 40, "q2", "a2"),
        talk(*[f"{number} and so on" for number in range(20)]),
        talk("why " * 60, "because"),
    ]
    file = write_rows(tmp_path / "a.jsonl", rows)
    source = run(job([{"path": str(file)}], max_length=64), tmp_path).statistics["sources"][0]
    assert source["dropped"] == {
        "answer longer than a row": 1,
        "question and answer left out: the two do not fit a row (spec.training.maxSequenceLength)": 1,
    }
    assert source["split_dialogues"] == 1
    assert source["segments"] > source["dialogues"] == 2


def test_statistics_say_what_the_data_was_like(tmp_path: Path, tiny: Tiny) -> None:
    prepared = run(job([{"path": str(tiny.dialogues)}], max_length=512), tmp_path)
    statistics, shape = prepared.statistics, prepared.data_shape.train
    assert sum(count for _, _, count in statistics["lengths"]) == shape.segments
    assert statistics["sources"][0]["tokens"] == shape.tokens
    assert statistics["supervised_share"] == shape.supervised_tokens / shape.tokens
    pieces = statistics["samples"][0]["pieces"]
    assert "".join(piece["text"] for piece in pieces).startswith("<|system|>\n<|end|>\n<|user|>\nHow do I reverse a list")
    assert [piece["supervised"] for piece in pieces] == [False, True, False, True, False]


def test_what_the_datas_own_cards_say_is_kept_with_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "train.jsonl", talks(4))
    (tmp_path / "data" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    write_rows(tmp_path / "alone.jsonl", talks(4))
    prepared = run(job([{"path": "./data"}, {"path": "./alone.jsonl"}]), tmp_path)
    meta = json.loads((prepared.folder / "meta.json").read_text())
    assert [source["card"]["licences"] for source in meta["statistics"]["sources"]] == [["cc-by-4.0"], []]


def test_progress_is_told(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [*talks(600), talk("q", "a", "open")])
    events: list[Event] = []
    run(job([{"path": str(file)}]), tmp_path, events=events)
    assert [event.done for event in events if isinstance(event, StageAdvanced)] == [256, 512, 601]
    assert sum(isinstance(event, StageStarted) for event in events) == 1
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert any("1 x trailing user turn" in notice and "row 601" in notice for notice in notices)
    assert sum("format messages, recognised" in notice for notice in notices) == 1


def test_preparation_loads_neither_torch_nor_transformers(tmp_path: Path, tiny: Tiny) -> None:
    """They take seconds and most of a gigabyte."""
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from tests.trainer.chat_data import job; from tests.trainer.preparation.test_prepare import run\n"
        "for name in ('torch', 'transformers', 'datasets', 'ray', 'deepspeed'): sys.modules[name] = None\n"
        "run(job([{'path': sys.argv[1]}]), Path(sys.argv[2]))\n"
    )
    environment_path = [str(tiny.dialogues), str(tmp_path), str(ROOT)]
    subprocess.run([sys.executable, "-c", program, *environment_path], check=True, cwd=ROOT)


# Rows of every kind


def test_documents_are_learnt_whole_and_divided_where_a_row_is_full(tmp_path: Path) -> None:
    write_rows(tmp_path / "d.jsonl", [{"text": "a short text"}, {"text": "word " * 300}])
    prepared = run(job([{"path": "./d.jsonl"}], max_length=128), tmp_path)
    texts = learnt(prepared)
    assert texts[0] == "a short text<|endoftext|>"
    assert len(texts) > 2
    assert "".join(texts[1:]) == "word " * 300 + "<|endoftext|>"


def test_rows_of_tokens_are_stored_as_they_are(tmp_path: Path) -> None:
    write_rows(tmp_path / "d.jsonl", [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]}, {"input_ids": [9] * 200}])
    events: list[Event] = []
    prepared = run(job([{"path": "./d.jsonl"}], max_length=128), tmp_path, events=events)
    data = PreparedData.open(prepared.folder, "train")
    assert data.num_examples == 1
    assert data.ids(0).tolist() == [5, 6, 7, 8]
    assert data.supervised(0).tolist() == [0, 1, 0, 1]
    assert prepared.statistics["sources"][0]["dropped"] == {"answer longer than a row": 1}


def test_a_mixture_of_dialogues_documents_and_tokens(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", talks(3))
    write_rows(tmp_path / "b.jsonl", [{"text": "text"}])
    write_rows(tmp_path / "c.jsonl", [{"input_ids": [5, 6]}])
    sources: list[dict[str, Any]] = [{"path": f"./{name}.jsonl"} for name in "abc"]
    prepared = run(job(sources, evaluation={"fraction": 0.2}, repeatedMessages="once"), tmp_path)
    assert [source["dialogues"] for source in prepared.statistics["sources"]] == [3, 1, 1]


def test_other_words_for_keys_and_roles_as_axolotl_says_it(tmp_path: Path) -> None:
    write_rows(tmp_path / "d.jsonl", [{"turns": [{"speaker": "me", "says": "Q"}, {"speaker": "narrator", "says": "A"}]}])
    source = {
        "path": "./d.jsonl",
        "columns": {"messages": "turns"},
        "messagePropertyMappings": {"role": "speaker", "content": "says"},
        "roles": {"user": ["me"], "assistant": ["narrator", "bot"]},
    }
    assert answers(run(job([source]), tmp_path)) == ["A"]


def test_turns_before_the_first_question_are_left_out_with_a_count_or_refused(tmp_path: Path) -> None:
    late = {"conversations": [{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}
    write_rows(tmp_path / "d.jsonl", [late])
    prepared = run(job([{"path": "./d.jsonl"}]), tmp_path)
    assert answers(prepared) == ["A"]
    assert prepared.statistics["sources"][0]["dropped"] == {"leading assistant turn": 1}
    with pytest.raises(InvalidData, match="row 1: message 1: the conversation begins with an assistant turn"):
        run(job([{"path": "./d.jsonl"}], leadingAssistantTurns="refuse"), tmp_path)


def test_one_bad_row_is_one_bad_row_and_what_is_not_read_is_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "d.jsonl", [{"messages": []}, talk("Q", "A", id=1), talk("R", "B", id=2)])
    events: list[Event] = []
    prepared = run(job([{"path": "./d.jsonl"}], maxInvalidRows=1), tmp_path, events=events)
    assert answers(prepared) == ["A", "B"]
    assert prepared.statistics["sources"][0]["places"] == {"no message at all (column 'messages')": ["./d.jsonl row 1"]}
    not_read = "./d.jsonl: columns that are not read: 'id' (2 rows)"
    assert not_read in [event.message for event in events if isinstance(event, Notice)]
    assert prepared.statistics["sources"][0]["told"] == ["./d.jsonl: format messages, recognised from row 2", not_read]
    told: list[Event] = []
    with pytest.raises(InvalidData, match=r"d\.jsonl row 1: no message at all \(column 'messages'\)"):
        run(job([{"path": "./d.jsonl"}]), tmp_path, events=told)
    assert not_read in [event.message for event in told if isinstance(event, Notice)]


def test_rows_that_a_template_refuses_and_rows_that_can_not_be_read_are_counted_together(tmp_path: Path) -> None:
    calls = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]
    rows = [talk("Q", "A"), {"messages": calls}, *talks(300), {"messages": []}]
    write_rows(tmp_path / "d.jsonl", rows)
    assert len(answers(run(job([{"path": "./d.jsonl"}], maxInvalidRows=2), tmp_path))) == 301
    with pytest.raises(InvalidData, match=r"row 2: template no_system has no tool calls.*\n.*more than 1 rows are wrong"):
        run(job([{"path": "./d.jsonl"}], maxInvalidRows=1), tmp_path)
