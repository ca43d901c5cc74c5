"""What the page shows of a program: words, output, and pictures that are never decoded here."""

from typing import Any

from finetune_assistant.playground.pictures import MOST_BYTES, MOST_PICTURES, shown
from finetune_assistant.sandbox.plots import Plot


def plot(**changes: Any) -> Plot:
    return Plot(**{"ran": True, "pictures": (b"png",), "error": None, "code": "pass", **changes})


def test_a_picture_has_words_for_those_who_hear_the_page() -> None:
    ran = shown(plot(stdout="<b>two</b>"))
    assert ran.told == "It ran, and drew 1 picture."
    assert ran.pictures.count("<img") == 1
    assert 'alt="Picture 1 that the answer\'s program drew"' in ran.pictures.replace("&#x27;", "'")
    assert 'src="data:image/png;base64,cG5n"' in ran.pictures
    assert ran.printed == "<b>two</b>"


def test_what_failed_is_said() -> None:
    ran = shown(plot(ran=False, pictures=(), error="it ran for longer than 60 seconds", notes=("%matplotlib inline",)))
    assert ran.told == "It failed: it ran for longer than 60 seconds. Left out, for a notebook only: %matplotlib inline."
    assert ran.pictures == ""


def test_too_many_or_too_large_pictures_are_counted() -> None:
    many = shown(plot(pictures=(b"png",) * (MOST_PICTURES + 2)))
    assert many.pictures.count("<img") == MOST_PICTURES
    assert "Not shown: 2 pictures more, or too large." in many.told
    large = shown(plot(pictures=(b"png", b"x" * MOST_BYTES)))
    assert large.pictures.count("<img") == 1
    assert "Not shown: 1 picture more, or too large." in large.told
