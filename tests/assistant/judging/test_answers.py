"""Files of answers: what is read, cut and paired, and what is refused by row."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.assistant.judging.answer_files import answers_file

from finetune_api.errors import InvalidData
from finetune_assistant.judging.answers import as_messages, cut_at_control_tokens, pair_of, pair_row, paired, read_answers
from finetune_assistant.prompts.code_prompts import code_prompts


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Use a set.", "Use a set."),
        ("Use a set.<|end|>\n<|user|>\nThanks<|end|>", "Use a set."),
        ("<|assistant|>\nUse a set.<|end|>", "Use a set."),
        ("<|im_start|>assistant\nUse a set.<|im_end|>", "Use a set."),
        ("Use a set.<|endoftext|>import os", "Use a set."),
        ("Use a set.<end_of_turn>", "Use a set."),
        ("Use a set.</s>", "Use a set."),
        ("In HTML <s>this</s> is struck out.", "In HTML <s>this</s> is struck out."),
        ("a <| b |> c", "a <| b |> c"),
        ("<|end|>", ""),
        ("  \n", ""),
    ],
)
def test_answers_end_at_control_tokens(text: str, kept: str) -> None:
    assert cut_at_control_tokens(text) == kept


def test_what_a_row_says(tmp_path: Path) -> None:
    file = answers_file(
        tmp_path / "base.jsonl", ["one<|end|>", "two"], rows={1: {"id": 7, "model": "m", "kind": "write", "language": "go"}}
    )
    one, two = read_answers(file)
    assert (one.key, one.prompt, one.text, one.model, one.kind, one.cut) == ("Question 0?", "Question 0?", "one", "base", "", True)
    assert (two.key, two.model, two.kind, two.language, two.cut) == ("7", "m", "write", "go", False)


def test_our_prompts_bring_their_kind_and_language(tmp_path: Path) -> None:
    ours = code_prompts()[-1]
    (answer,) = read_answers(answers_file(tmp_path / "x.jsonl", ["fine"], rows={0: {"prompt": ours.prompt}}))
    assert (answer.kind, answer.language) == ("review", "bash")


def test_several_samples_of_a_prompt_are_several_answers(tmp_path: Path) -> None:
    rows = {number: {"prompt": "Same?", "sample": number} for number in range(3)}
    files = [answers_file(tmp_path / f"{name}.jsonl", [f"{name}1", f"{name}2", f"{name}3"], rows=rows) for name in "ab"]
    pairs = paired(*map(read_answers, files))
    assert [(pair.answer_a, pair.answer_b) for pair in pairs.pairs] == [("a1", "b1"), ("a2", "b2"), ("a3", "b3")]


def test_a_prompt_that_is_there_twice_is_paired_in_order(tmp_path: Path) -> None:
    rows = {number: {"prompt": "Same?"} for number in range(2)}
    files = [answers_file(tmp_path / f"{name}.jsonl", [f"{name}1", f"{name}2"], rows=rows) for name in "ab"]
    pairs = paired(*map(read_answers, files))
    assert [(pair.answer_a, pair.answer_b) for pair in pairs.pairs] == [("a1", "b1"), ("a2", "b2")]
    assert len({pair.key for pair in pairs.pairs}) == 2


def test_rows_of_messages_and_half_a_character(tmp_path: Path) -> None:
    rows = {0: {"prompt": None, "messages": [{"role": "user", "content": "Why \ud83d?"}]}}
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({**rows[0], "answer": "So \ud83d."}) + "\n")
    (answer,) = read_answers(file)
    assert (answer.prompt, answer.text) == ("Why ??", "So ?.")


def test_pairs_are_those_of_the_same_prompts_in_the_order_of_the_first_file(tmp_path: Path) -> None:
    a = answers_file(tmp_path / "a.jsonl", ["a0", "a1", "a2"])
    b = answers_file(tmp_path / "b.jsonl", ["b2", "b0"], rows={0: {"prompt": "Question 2?"}, 1: {"prompt": "Question 0?"}})
    pairs = paired(read_answers(a), read_answers(b))
    assert [(pair.answer_a, pair.answer_b) for pair in pairs.pairs] == [("a0", "b0"), ("a2", "b2")]
    assert (pairs.names, list(pairs.only_one)) == (("a", "b"), ["Question 1?"])


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = [answers_file(tmp_path / f"{name}.jsonl", ["x"], model="same") for name in "ab"]
    assert paired(*map(read_answers, files)).names == ("same (first file)", "same (second file)")


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


@pytest.mark.parametrize("prompt", ["Why?", MESSAGES])
def test_a_pair_goes_through_json(tmp_path: Path, prompt: Any) -> None:
    files = [answers_file(tmp_path / f"{name}.jsonl", [name], rows={0: {"prompt": prompt}}) for name in "ab"]
    (pair,) = paired(*map(read_answers, files)).pairs
    row = json.loads(json.dumps(pair_row(pair)))
    assert pair_of(row) == pair
    assert row["prompt"] == prompt
    assert as_messages(pair.turns)[-1] == {"role": "user", "content": "Why?"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no answers"),
        ("{\n", "row 1 is no JSON"),
        ("[1]\n", "row 1 is no object"),
        ('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n', "row 2 has no text `answer`; it has prompt"),
        ('{"prompt": "a", "answer": null}\n', "row 1 has no text `answer`"),
        ('{"prompt": 1, "answer": "b"}\n', "row 1: `prompt` is neither"),
        ('{"prompt": [{"role": "user"}], "answer": "b"}\n', "row 1: `prompt` is neither"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(text)
    with pytest.raises(InvalidData) as refused:
        read_answers(file)
    assert said in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="can't be read: No such file"):
        read_answers(tmp_path / "nowhere.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidData, match="can't be read"):
        read_answers(tmp_path / "binary")


def test_files_without_a_common_prompt(tmp_path: Path) -> None:
    a = answers_file(tmp_path / "a.jsonl", ["x"])
    b = answers_file(tmp_path / "b.jsonl", ["x"], rows={0: {"prompt": "Something else?"}})
    with pytest.raises(InvalidData, match="no prompt in common: 'Question 0\\?' against 'Something else\\?'"):
        paired(read_answers(a), read_answers(b))


def test_an_id_that_stands_for_two_prompts(tmp_path: Path) -> None:
    a = answers_file(tmp_path / "a.jsonl", ["x"], rows={0: {"id": 1}})
    b = answers_file(tmp_path / "b.jsonl", ["x"], rows={0: {"id": 1, "prompt": "Something else?"}})
    with pytest.raises(InvalidData, match="id '1' has another prompt in each file"):
        paired(read_answers(a), read_answers(b))
