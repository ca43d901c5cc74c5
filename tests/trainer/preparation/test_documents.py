"""Documents and rows of tokens as examples: each token of a text once, the end behind it, rows of tokens as they are."""

from typing import Any

import pytest
from tests.trainer.chat_data import encoder

from finetune_api.errors import InvalidModel
from finetune_trainer.data.dialogues import Document, TokenRow
from finetune_trainer.preparation.documents import encode_document, encode_tokens

END = "<|endoftext|>"
TOKENIZER = encoder(name="no_system").tokenizer
END_ID = TOKENIZER.token_to_id(END)
TEXT = "Hello, can you help me? " * 20


def document(text: str) -> Document:
    return Document(source="d", row=1, tree="t", text=text)


def token_row(*ids: int, learnt: str) -> TokenRow:
    return TokenRow(source="d.jsonl", row=3, tree="t", input_ids=ids, supervised=tuple(mark == "1" for mark in learnt))


def test_a_document_is_learnt_whole_with_the_end_behind_it() -> None:
    (example,) = encode_document(document(TEXT), TOKENIZER, END).examples
    assert example.input_ids == [*TOKENIZER.encode(TEXT).ids, END_ID]
    assert example.labels == example.input_ids


def test_an_end_that_is_there_is_not_written_again_and_control_tokens_are_tokens() -> None:
    (example,) = encode_document(document(f"<|user|>\nHi{END}"), TOKENIZER, END).examples
    assert example.input_ids.count(END_ID) == 1
    assert example.input_ids[0] == TOKENIZER.token_to_id("<|user|>")


@pytest.mark.parametrize("length", [2, 7, 16, 1000])
def test_a_document_longer_than_a_row_is_divided_and_each_token_learnt_once(length: int) -> None:
    examples = encode_document(document(TEXT), TOKENIZER, END, length).examples
    whole = [*TOKENIZER.encode(TEXT).ids, END_ID]
    assert all(len(example.input_ids) <= length for example in examples)
    learnt = [example.input_ids[index] for example in examples for span in example.supervised for index in span]
    assert learnt == whole
    # The first token of a row is predicted by nothing: of a later piece it is the one before, which is not learnt again.
    assert [example.supervised[0].start for example in examples] == [0, *[1] * (len(examples) - 1)]


def test_a_tokenizer_without_an_end() -> None:
    for end in (None, "<nothing>"):
        with pytest.raises(InvalidModel, match="the tokenizer names none; set eos_token"):
            encode_document(document("a"), TOKENIZER, end)


def test_rows_of_tokens_are_as_they_are() -> None:
    (example,) = encode_tokens(token_row(1, 2, 3, 4, learnt="0110"), 10).examples
    assert (example.input_ids, example.labels) == ([1, 2, 3, 4], [-100, 2, 3, -100])
    assert encode_tokens(token_row(1, 2, learnt="00"), 10).examples == []
    assert encode_tokens(token_row(1, learnt="1"), 10).examples == []


def test_an_id_that_is_none_of_the_tokenizer_s_is_a_bad_row() -> None:
    found = encode_tokens(token_row(1, 10, learnt="11"), 10)
    assert (found.refused, found.examples) == ("column 'input_ids': 10 is no id of the tokenizer, whose last is 9", [])


@pytest.mark.parametrize(("overlong", "expected"), [("drop", (0, 1, 0)), ("cut", (1, 0, 1))])
def test_rows_of_tokens_longer_than_a_row_are_dropped_or_cut(overlong: Any, expected: tuple[int, int, int]) -> None:
    found = encode_tokens(token_row(1, 2, 3, 4, learnt="0111"), 10, 3, overlong)
    assert (len(found.examples), found.dropped_turns, found.cut_turns) == expected
    assert [example.input_ids for example in found.examples] == [[1, 2, 3]] * expected[0]
    assert encode_tokens(token_row(1, 2, 3, learnt="001"), 10, 2, overlong).dropped_turns == 1
