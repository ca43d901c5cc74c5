"""Fields of the page: what a visitor wrote, and what is refused."""

import pytest

from finetune_api.errors import InvalidInput
from finetune_assistant.inference.sampling import Sampling
from finetune_assistant.playground.sampling_fields import FIELDS, sampling_of


def texts(**given: str) -> list[str]:
    return [given.get(field.name, "") for field in FIELDS]


def test_empty_fields_are_the_models_own() -> None:
    assert sampling_of(texts(top_k=" "), greedy=False) == Sampling()


def test_fields_become_what_chat_takes() -> None:
    asked = texts(temperature="0,5", top_k="40", top_p="0.9", repetition_penalty="1.1", max_new_tokens="64.0", seed=" 7 ")
    expected = Sampling(greedy=True, temperature=0.5, top_k=40, top_p=0.9, repetition_penalty=1.1, max_new_tokens=64, seed=7)
    assert sampling_of(asked, greedy=True) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("temperature", "-1", "Temperature is -1; give a number of 0 or more, or nothing"),
        ("top_k", "1.5", "Top k is 1.5; give a whole number of 0 or more, or nothing"),
        ("top_p", "2", "Top p is 2; give a number from 0 to 1, or nothing"),
        ("max_new_tokens", "0", "Longest answer is 0; give a whole number of 1 or more, or nothing"),
        ("temperature", "nan", "Temperature is nan; give a number of 0 or more, or nothing"),
        ("temperature", "hot", "Temperature is hot; give a number of 0 or more, or nothing"),
        ("seed", "inf", "Seed is inf; give a whole number of 0 or more, or nothing"),
    ],
)
def test_what_is_no_such_number_is_refused_by_name(name: str, text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        sampling_of(texts(**{name: text}), greedy=False)
    assert str(caught.value) == message
