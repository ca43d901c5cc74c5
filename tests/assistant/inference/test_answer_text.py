"""What of an answer may be shown, and when it is over, however tokens divide it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.conftest import Tiny

from finetune_assistant.inference.answer_text import AnswerText, StopTexts, answer_of

TEXTS = [
    "Sure.\n\n```python\nprint('hello')\n```\n",
    "Grüße, 世界! 🙂🏽 é\u0301 \u200d end",
    "  leading, and   many    spaces \n\n\n and lines\t\ttabs ",
    "a ----- b, -- and ---",
]


def letters(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_real_tokenizer_add_up(text: str, tiny: Tiny) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny.tokenizer))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    shown = AnswerText(tokenizer.decode)
    pieces = [shown.add(token_id) for token_id in ids]
    assert "".join([*pieces, shown.close()]) == shown.text == tokenizer.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.real_data
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_starcoders_tokenizer_add_up(text: str, test_data: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(test_data / "starcoder-tokenizer.json"))
    shown = AnswerText(tokenizer.decode)
    pieces = [shown.add(token_id) for token_id in tokenizer.encode(text, add_special_tokens=False).ids]
    assert "".join([*pieces, shown.close()]) == text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (" Yes.\n\nHuman: And", "Yes."),
        (" Yes.\n-----\nHuman:", "Yes."),
        (" Yes.\n\nHum", "Yes.\n\nHum"),
        ("Yes, Human: is a word", "Yes, Human: is a word"),
        (" ----- ", ""),
        ("\nHuman: again", ""),
        (" rule: ---- ", "rule: ----"),
        (" two  \n \n\nHuman:", "two"),
    ],
)
def test_stop_texts_are_found_whatever_the_pieces_and_never_shown(raw: str, expected: str) -> None:
    stops = ("\nHuman:", "-----")
    assert answer_of(raw, lead=" ", stop_texts=stops) == expected
    shown = AnswerText(letters, lead=" ", stop_texts=stops)
    so_far = ""
    for byte in raw.encode():
        so_far += shown.add(byte)
        assert so_far == shown.text
        assert expected.startswith(so_far)
    assert so_far + shown.close() == expected


def test_the_lead_is_taken_off_once() -> None:
    shown = AnswerText(letters, lead="\n\n")
    assert [shown.add(byte) for byte in b"\n\n\nx"] == ["", "", "\n", "x"]


def test_generation_stops_where_the_text_is_there_in_each_sequence_by_itself() -> None:
    import torch

    stop = StopTexts(letters, ("\nHuman:",), prompt_length=2)
    rows = [b"xxab\nHuman: more", b"\nHuman: no stop."]
    ends = []
    for length in range(3, 17):
        ids = torch.tensor([list(row[:length]) for row in rows])
        ends.append(stop(ids, None).tolist())
    assert ends.index([True, False]) == len("ab\nHuman:") - 1
    assert ends[-1] == [True, False]
    assert stop.ended_at == {0: len("ab\nHuman:")}
