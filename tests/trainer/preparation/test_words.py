"""Words: the same ids as the tokenizer's own, for any text, and only for tokenizers that divide at words."""

import random
from itertools import product
from pathlib import Path
from string import ascii_letters

import pytest
from tests.conftest import Tiny
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from finetune_trainer.preparation import words
from finetune_trainer.preparation.words import WordEncoder, divides_at_words

# White space of every kind, marks, letters beyond ASCII, digits, punctuation and what contractions are made of.
CHARACTERS = list("ab Z  09'sdt\"\n\t.,!{}<|>_é\u00a0\u2003\x1c\x85한🙂\u200b\u0300\u3000\r\x00\x7f")
WORDS = [
    "the",
    "I'm",
    "don't",
    "x=1",
    "a",
    "Hello,",
    "3.14",
    "日本",
    "\n\n",
    "    return",
    "<|end|>",
    "https://example.org/a%20b?c=d",
    "e\u0301",
    "--",
    "'s",
]


def texts(seed: int, count: int = 4000) -> list[str]:
    generator = random.Random(seed)
    characters = ["".join(generator.choices(CHARACTERS, k=generator.randint(0, 30))) for _ in range(count)]
    words = [generator.choice([" ", " ", "  ", ""]).join(generator.choices(WORDS, k=generator.randint(1, 20))) for _ in range(count)]
    return characters + words


def plain(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def assert_same_ids(tokenizer: Tokenizer, some: list[str]) -> None:
    assert divides_at_words(tokenizer)
    encoder = WordEncoder(tokenizer)
    for start in range(0, len(some), 500):  # several calls, so that words are remembered
        chunk = some[start : start + 500]
        assert encoder.encode(chunk) == [tokenizer.encode(text, add_special_tokens=False).ids for text in chunk]


@pytest.mark.parametrize("seed", range(3))
def test_words_give_the_ids_of_the_whole_text(tiny: Tiny, seed: int) -> None:
    assert_same_ids(plain(tiny.tokenizer), texts(seed))


@pytest.mark.real_data
def test_words_give_the_ids_of_real_text(test_data: Path) -> None:
    tokenizer = plain(test_data / "starcoder-tokenizer.json")
    lines = (test_data / "oasst1_en_trees.jsonl").read_text(encoding="utf-8").splitlines()
    assert_same_ids(tokenizer, texts(7) + [line[:20_000] for line in lines])


def test_more_words_than_are_kept_change_nothing(tiny: Tiny) -> None:
    tokenizer = plain(tiny.tokenizer)
    encoder = WordEncoder(tokenizer)
    many = " ".join(map("".join, product(ascii_letters, repeat=3)))
    assert len(many) // 4 > words._MOST_KEPT
    whole = tokenizer.encode(many, add_special_tokens=False).ids
    assert encoder.encode([many]) == encoder.encode([many]) == [whole]


def variant(tiny: Tiny, change: str) -> Tokenizer:
    tokenizer = plain(tiny.tokenizer)
    match change:
        case "normalizer":
            tokenizer.normalizer = normalizers.NFC()
        case "prefix space":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        case "no expression":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        case "another pre-tokenizer":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        case "none":
            tokenizer = Tokenizer(models.BPE())
        case "a token over a space":
            tokenizer.add_tokens([AddedToken("of the", special=False)])
        case "a token that takes the space before it":
            tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return tokenizer


@pytest.mark.parametrize(
    "change",
    [
        "normalizer",
        "prefix space",
        "no expression",
        "another pre-tokenizer",
        "none",
        "a token over a space",
        "a token that takes the space before it",
    ],
)
def test_other_tokenizers_encode_whole_texts(tiny: Tiny, change: str) -> None:
    assert WordEncoder.of(variant(tiny, change)) is None
