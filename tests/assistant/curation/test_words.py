"""Words as numbers: the same for the same words, whatever their case and punctuation, in every process."""

import numpy as np
import pytest

from finetune_assistant.curation.words import run_hashes, word_hashes, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("... !?", []),
        ("Hello, WORLD_wide", ["hello", "world", "wide"]),
        ("Straße \ufb01n", ["strasse", "fin"]),  # casefold, and NFKC takes ligatures apart
        ("猫が好き cats", ["猫", "が", "好", "き", "cats"]),
        ("Привет, мир", ["привет", "мир"]),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found
    assert len(word_hashes(text)) == len(found)


def test_hashes_are_the_same_in_every_process() -> None:
    """Python's own `hash` of text is another in each process. CRC-32 of `hello` is 0x3610a686."""
    assert word_hashes("Hello").tolist() == [0x3610A686]


def test_ascii_and_other_text_agree() -> None:
    assert word_hashes("one two THREE").tolist() == word_hashes("one two THREE é").tolist()[:3]


def test_a_run_is_known_by_its_words_and_their_order() -> None:
    runs = run_hashes(word_hashes("a b c a b c c b a"), 3)
    assert len(runs) == 7
    assert runs[0] == runs[3]
    assert len(np.unique(runs)) == 6
    assert not len(run_hashes(word_hashes("a b"), 3))
