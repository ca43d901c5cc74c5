"""Whose word counts for how an answer is drawn: the user's, the model's, ours."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig

from finetune_assistant.inference.sampling import Sampling, generation_config, longest_answer


def drawn(sampling: Sampling, **own: Any) -> dict[str, Any]:
    config = generation_config(SimpleNamespace(generation_config=GenerationConfig(**own)), sampling, max_new_tokens=9, stop_ids=[5])
    names = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
    return {name: getattr(config, name) for name in names}


PLAIN = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}


@pytest.mark.parametrize(
    ("own", "sampling", "expected"),
    [
        ({}, Sampling(), {"do_sample": True, "temperature": 0.2, "top_k": 50, "top_p": 0.95, "repetition_penalty": None}),
        ({}, Sampling(temperature=0.7), {"do_sample": True, "temperature": 0.7, "top_k": None}),
        ({}, Sampling(greedy=True), {"do_sample": False, **PLAIN}),
        ({"do_sample": False}, Sampling(), {"do_sample": False, **PLAIN}),
        ({"do_sample": True, "temperature": 0.6}, Sampling(top_p=0.5), {"temperature": 0.6, "top_p": 0.5, "top_k": None}),
        ({"repetition_penalty": 1.2}, Sampling(repetition_penalty=1.0), {"repetition_penalty": 1.0}),
        ({"repetition_penalty": 1.2}, Sampling(greedy=True), {"repetition_penalty": 1.2}),
        ({"do_sample": True, "temperature": 0.6}, Sampling(temperature=0.0), {"do_sample": False, **PLAIN}),
    ],
)
def test_the_user_then_the_model_then_we(own: dict[str, Any], sampling: Sampling, expected: dict[str, Any]) -> None:
    found = drawn(sampling, **own)
    assert {name: found[name] for name in expected} == expected


def test_an_answer_takes_at_most_half_of_the_window() -> None:
    def longest(sampling: Sampling, own: int | None = None) -> int:
        config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=100))
        return longest_answer(SimpleNamespace(config=config, generation_config=GenerationConfig(max_new_tokens=own)), sampling, 30)

    assert [longest(Sampling()), longest(Sampling(), 20), longest(Sampling(max_new_tokens=10), 20)] == [30, 20, 10]
    assert longest(Sampling(max_new_tokens=80)) == 50
