"""Dialogues encoded word by word, many together, become the examples that each becomes when its text is encoded alone and as a whole."""

import random
from pathlib import Path

import pytest
from tests.conftest import Tiny
from tests.trainer.chat_data import CHATML, dialogue
from tests.trainer.preparation.test_words import VOCABULARIES, WORDS, dividing
from tokenizers import AddedToken

from finetune_api.finetunejob import TemplateSpec
from finetune_trainer.data.dialogues import Dialogue
from finetune_trainer.preparation.labels import Encoder
from finetune_trainer.preparation.words import WordEncoder
from finetune_trainer.templates.registry import template_from_spec
from finetune_trainer.templates.tokenizer import TokenizerFiles

TEMPLATES = ["no_system", "chatml", "alpaca", "plain", "model"]
TOKENS = ["<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>", "<|im_", "end|>"]
NOT_SPECIAL = ["<tool_call>", "of the"]  # a control token by its looks, and a word
# How messages begin and end, seams above all.
EDGES = ["", "", "", " ", "\n", "\n\n", "\t", "  \n ", ".", "'s", "\u0301", "<", "é"]


def encoder(tiny: Tiny, vocabulary: str, template: str, not_special: bool) -> Encoder:
    tokenizer = dividing(tiny.tokenizer, vocabulary)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in NOT_SPECIAL if not_special])
    files = TokenizerFiles(
        path=Path("t"), tokenizer=tokenizer, named_tokens={"eos_token": "<|im_end|>"}, chat_template=CHATML, digest=vocabulary
    )
    return Encoder(tokenizer, template_from_spec(TemplateSpec.model_validate({"name": template}), files))


def drawn(seed: int, count: int = 40) -> list[Dialogue]:
    generator = random.Random(seed)

    def message() -> str:
        words = generator.choices([*WORDS * 6, *TOKENS, *NOT_SPECIAL], k=generator.randint(1, 12))
        return generator.choice(EDGES) + generator.choice([" ", "", "\n"]).join(words) + generator.choice(EDGES)

    return [dialogue(*[message() for _ in range(2 * generator.randint(1, 4))], row=row) for row in range(count)]


@pytest.mark.parametrize("not_special", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_examples_are_those_of_whole_texts(
    tiny: Tiny, vocabulary: str, template: str, not_special: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_words = encoder(tiny, vocabulary, template, not_special)
    monkeypatch.setattr(WordEncoder, "of", lambda tokenizer: None)
    whole = encoder(tiny, vocabulary, template, not_special)
    dialogues = drawn(seed=TEMPLATES.index(template))
    together = by_words.encode(dialogues)
    assert any(each.seams for each in together) or template not in ("no_system", "chatml", "model")
    for one, found in zip(dialogues, together, strict=True):
        assert [found] == whole.encode([one]), one
        assert by_words.encode_prompt(one.messages[:1]) == whole.encode_prompt(one.messages[:1])


def test_a_dialogue_that_a_template_refuses_is_one_bad_row_among_others(tiny: Tiny) -> None:
    made = encoder(tiny, "Llama 3", "model", not_special=False)
    refused = dialogue("q\ufdd2<|im_end|>\ufdd3", "a", row=2)
    some = [dialogue("one", "two"), refused, dialogue("three", "four", row=3)]
    for alone, together in zip(some, made.encode(some), strict=True):
        assert [together] == made.encode([alone])
