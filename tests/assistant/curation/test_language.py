"""The language of prose, told by the library's own model."""

import pytest

from finetune_api.errors import InvalidData
from finetune_assistant.curation.language import check_languages, language_of


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["How do I sort a list in place?", "Call its method sort."], "en"),
        (["Wie sortiere ich eine Liste an Ort und Stelle?"], "de"),
        (["怎么给列表排序,请给我一个例子。"], "zh"),
        (["Comment trier une liste ?", "```python\nfor each in sorted(items):\n    print('the next one is', each)\n```"], "fr"),
        (["Kannst du das erklären? `return the first of all items` und https://example.org/the/english/words"], "de"),
        (["Ein ganzer Satz steht davor.\n~~~\nthis block of code has no end, and many English words in it, more than there are"], "de"),
        (["COMPARE iPhone AND ANDROID FOR A STUDENT WHO LIKES TO READ AND WRITE"], "en"),
        (["Thanks!"], None),
        (["x = 3"], None),
        (["```\nall of it is code, whatever its words are\n```"], None),
        ([""], None),
    ],
)
def test_language(texts: list[str], language: str | None) -> None:
    assert language_of(texts) == language


@pytest.mark.parametrize(
    ("code", "said"), [("english", "is it en?"), ("EN", "is it en?"), ("xx", "no code of ISO 639"), ("zxx", "no code")]
)
def test_codes_that_are_none(code: str, said: str) -> None:
    with pytest.raises(InvalidData) as refused:
        check_languages(["de", code])
    assert said in str(refused.value)
    assert f"--language {code}:" in str(refused.value)
