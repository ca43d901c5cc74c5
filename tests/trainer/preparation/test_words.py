"""Words: the same ids as the tokenizer's own, for any text, and only for tokenizers that divide at words."""

import random
from itertools import product
from pathlib import Path
from string import ascii_letters

import pytest
from tests.conftest import Tiny
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

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


# As they are published.
EXPRESSIONS = {
    "Llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "Qwen 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "GPT-OSS": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
VOCABULARIES = ["GPT-2", "StarCoder", *EXPRESSIONS]


def dividing(path: Path, vocabulary: str) -> Tokenizer:
    """The tokenizer of a file, with the division of others."""
    tokenizer = Tokenizer.from_file(str(path))
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=vocabulary not in EXPRESSIONS)
    first = [pre_tokenizers.Digits(individual_digits=True)] if vocabulary == "StarCoder" else []
    if vocabulary in EXPRESSIONS:
        first = [pre_tokenizers.Split(Regex(EXPRESSIONS[vocabulary]), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, bytes_only])
    if vocabulary == "Qwen 3":
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that reads control tokens as text."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return copy


def assert_same_ids(tokenizer: Tokenizer, some: list[str]) -> None:
    assert divides_at_words(tokenizer)
    encoder, whole = WordEncoder(tokenizer), plain(tokenizer)
    for start in range(0, len(some), 500):  # several calls, so that words are remembered
        chunk = some[start : start + 500]
        assert encoder.encode(chunk) == [encoding.ids for encoding in whole.encode_batch(chunk, add_special_tokens=False)]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_words_give_the_ids_of_the_whole_text(tiny: Tiny, vocabulary: str) -> None:
    assert_same_ids(dividing(tiny.tokenizer, vocabulary), texts(seed=VOCABULARIES.index(vocabulary)))


def test_a_token_that_begins_in_a_word_and_ends_in_what_divides_words(tiny: Tiny) -> None:
    tokenizer = Tokenizer.from_file(str(tiny.tokenizer))
    divider = next(iter(tokenizer.get_added_tokens_decoder().values())).content
    tokenizer.add_special_tokens([AddedToken(f"x{divider}", normalized=False)])
    assert_same_ids(tokenizer, ["an x and a box", f"text: x{divider}", divider])


def test_a_special_token_that_no_word_divides_is_text(tiny: Tiny) -> None:
    tokenizer = Tokenizer.from_file(str(tiny.tokenizer))
    tokenizer.add_special_tokens(["END", "\u2581"])
    assert_same_ids(tokenizer, ["the END.", "ENDED", "a \u2581 b", "END"])


@pytest.mark.real_data
@pytest.mark.parametrize("vocabulary", ["StarCoder", "Llama 3"])
def test_words_give_the_ids_of_real_text(test_data: Path, vocabulary: str) -> None:
    tokenizer = dividing(test_data / "starcoder-tokenizer.json", vocabulary)
    lines = (test_data / "oasst1_en_trees.jsonl").read_text(encoding="utf-8").splitlines()
    assert_same_ids(tokenizer, texts(7) + [line[:20_000] for line in lines])


def test_more_words_than_are_kept_change_nothing(tiny: Tiny) -> None:
    tokenizer = Tokenizer.from_file(str(tiny.tokenizer))
    encoder = WordEncoder(tokenizer)
    many = " ".join(map("".join, product(ascii_letters, repeat=3)))
    assert len(many) // 4 > words._MOST_KEPT
    whole = tokenizer.encode(many, add_special_tokens=False).ids
    assert encoder.encode([many]) == encoder.encode([many]) == [whole]


def variant(tiny: Tiny, change: str) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(tiny.tokenizer))
    match change:
        case "normalizer":
            tokenizer.normalizer = normalizers.NFKC()
        case "prefix space":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        case "no expression":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        case "another pre-tokenizer":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        case "an expression that is not known":
            split = pre_tokenizers.Split(Regex(r"\s+|\S+"), "isolated")
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        case "none":
            tokenizer = Tokenizer(models.BPE())
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
        "an expression that is not known",
        "none",
        "a token that takes the space before it",
    ],
)
def test_other_tokenizers_encode_whole_texts(tiny: Tiny, change: str) -> None:
    assert WordEncoder.of(variant(tiny, change)) is None
