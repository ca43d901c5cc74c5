"""Near-duplicates: the first of a group stays, and the estimate agrees with the Jaccard similarity that it stands for."""

import pytest
from tests.assistant.curation.rows import sentence

from finetune_assistant.curation.near_duplicates import NearDuplicates
from finetune_assistant.curation.words import word_hashes, words


def jaccard(first: str, second: str) -> float:
    """Exact, of the sets of runs of five words."""
    one, other = ({tuple(found[i : i + 5]) for i in range(len(found) - 4)} for found in (words(first), words(second)))
    return len(one & other) / len(one | other)


def earlier(texts: list[str], threshold: float = 0.8, seed: int = 1) -> list[int | None]:
    kept = NearDuplicates(threshold, seed=seed)
    return [kept.earlier(word_hashes(text)) for text in texts]


def test_the_first_of_a_group_stays() -> None:
    first, second = sentence(100, 1), sentence(100, 2)
    texts = [first, second, f"{first} indeed", first.upper(), f"So: {second}", second]
    assert earlier(texts) == [None, None, 0, 0, 1, 1]


def test_rows_of_few_words_are_compared_as_they_are() -> None:
    assert earlier(["Hi there", "hi, there!", "Hi here", "", "!", "Hi"]) == [None, 0, None, None, None, None]


def test_another_seed_signs_otherwise_and_finds_the_same() -> None:
    texts = [sentence(60, 1), sentence(60, 2), sentence(60, 1) + " more"]
    assert earlier(texts, seed=1) == earlier(texts, seed=7) == [None, None, 0]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_what_is_found_is_as_similar_as_was_asked(threshold: float) -> None:
    """200 pairs, of which a part of the words was replaced: far above the threshold nearly all are found, far below none."""
    found = far_above = 0
    kept = NearDuplicates(threshold)
    for number in range(200):
        text = sentence(120, number)
        changed = [sentence(1, 1000 + number) if index < number % 20 else word for index, word in enumerate(text.split())]
        other = " ".join(changed)
        similar = jaccard(text, other)
        assert kept.earlier(word_hashes(text)) is None
        is_found = kept.earlier(word_hashes(other)) is not None
        if similar > min(threshold + 0.1, 0.99):
            far_above += 1
            found += is_found
        assert not (is_found and similar < threshold - 0.15), similar
    assert far_above > 5
    assert found >= 0.95 * far_above
