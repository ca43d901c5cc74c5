"""Rendered chat pages become Markdown again; text that only looks like markup, and what an answer is about, stays as it is."""

from typing import Any

import pytest

from finetune_api.finetunejob import DataSource
from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.data.markup import without_markup
from finetune_trainer.data.parsing import parse

PAGE = '<div class="markdown prose w-full break-words dark:prose-invert light">'


def chat(*texts: str) -> list[Message]:
    return [Message(role="assistant" if index % 2 else "user", content=text) for index, text in enumerate(texts)]


def answer(html: str, setting: Any = "markdown") -> str:
    """The assistant's text after cleaning."""
    return without_markup(chat("Q", html), setting)[1].content


LITERAL = [
    "#include <stdio.h>\nint main() { return 0; }",
    "a < b and b > c",
    "<stdio.h> is a header",
    "<- assigns in R",
    "<|end|>",
    'Use `<div class="card">` here.',
    "<html><body><p>Hello</p></body></html>",
    "<!DOCTYPE html>\n<html></html>",
    "<p>Put this in your page</p> and it works",
    "<p>One</p>\nThen run `a < b`.",
    "<T> is a type parameter: Vec<T>",
    "<script>alert(1)</script>",
    "```html\n<p>Hello</p>\n```",
    "<thinking>\nStep one.\n</thinking>\nDone.",
    "<",
    "",
]
# HTML from end to end, and the page's own element is not around it: somebody asked for it.
ASKED_FOR = [
    "<p>Hello <b>you</b></p>",
    '<div class="card"><p>Hi</p></div>',
    '<p class="lead">Hi</p>',
    "<ul><li><input></li></ul>",
    '<div class="flex-grow">Hi</div>',
    '<div class="prose">Hi</div>',
]


@pytest.mark.parametrize("text", LITERAL)
@pytest.mark.parametrize("setting", ["auto", "markdown"])
def test_text_that_is_no_rendered_page_stays(text: str, setting: Any) -> None:
    messages = chat("Q", text)
    assert without_markup(messages, setting) is messages


@pytest.mark.parametrize("text", ASKED_FOR)
def test_an_answer_in_html_is_what_was_asked_for(text: str) -> None:
    messages = chat("Give me HTML", text)
    assert without_markup(messages, "auto") is messages
    assert answer(text, "markdown") != text


def test_a_page_is_one_as_a_whole() -> None:
    """One answer without the page's element: the conversation was not taken from a page."""
    mixed = chat("Q", f"{PAGE}<p>A</p></div>", "R", "<p>B</p>")
    assert without_markup(mixed, "auto") is mixed
    whole = chat("Q", f"{PAGE}<p>A</p></div>", "R", f"{PAGE}<p>B</p></div>")
    assert [message.content for message in without_markup(whole, "auto")] == ["Q", "A", "R", "B"]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hello &amp; <strong>welcome</strong></p>", "Hello & **welcome**"),
        ("<p>Use <code>x &lt; y</code>.</p>", "Use `x < y`."),
        ("Plain", "Plain"),
        ("<p>snake_case * 2</p>", "snake_case * 2"),
        ("<h2>Title</h2><p>Text</p><hr>", "## Title\n\nText\n\n---"),
        ("<ul><li>a</li><li><p>b</p></li></ul>", "- a\n- b"),
        ("<ol><li>a<ul><li>x</li></ul></li><li>b</li></ol>", "1. a\n   - x\n2. b"),
        ("<blockquote><p>Said</p></blockquote>", "> Said"),
        ('<p>See <a href="https://example.org" target="_blank">this</a>.</p>', "See [this](https://example.org)."),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>", "| a | b |\n| --- | --- |\n| 1 | 2 |"),
        (
            '<p>Run:</p><pre><div class="bg-black"><div class="flex"><span>c</span><button>Copy code</button></div>'
            '<div class="p-4"><code class="hljs language-c++">#include &lt;vector&gt;\n\n\nint  x;\n</code></div></div></pre>',
            "Run:\n\n```c++\n#include <vector>\n\n\nint  x;\n```",
        ),
    ],
)
def test_a_rendered_page_becomes_markdown(html: str, text: str) -> None:
    assert answer(f"{PAGE}{html}</div>", "auto") == text


def test_what_a_user_typed_is_kept_unless_the_page_wraps_it() -> None:
    answered = f"{PAGE}<p>It is not.</p></div>"
    typed = without_markup(chat("<p>why is this bold?</p>", answered), "auto")
    assert [message.content for message in typed] == ["<p>why is this bold?</p>", "It is not."]
    wrapped = without_markup(chat('<div class="whitespace-pre-wrap">if a &lt; b:\n\n\n    go()</div>', answered), "auto")
    assert wrapped[0].content == "if a < b:\n\n\n    go()"


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("auto", f"{PAGE}<p>A</p></div>", "A"),
        ("markdown", f"{PAGE}<p>A</p></div>", "A"),
        ("keep", f"{PAGE}<p>A</p></div>", f"{PAGE}<p>A</p></div>"),
        ("auto", "<p>Hello <b>you</b></p>", "<p>Hello <b>you</b></p>"),
        ("markdown", "<p>Hello <b>you</b></p>", "Hello **you**"),
        ("keep", "<p>Hello <b>you</b></p>", "<p>Hello <b>you</b></p>"),
    ],
)
def test_sharegpt_human_asks_for_html_a_field_decides_and_it_is_told(setting: Any, value: str, expected: str) -> None:
    notices: list[str] = []
    row = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": value}]}
    (item,) = parse([("d", 1, row)], DataSource(path="./d.json", format="sharegpt", html=setting), notice=notices.append)
    assert isinstance(item, Dialogue)
    assert item.messages[1].content == expected
    changed = ["./d.json: HTML of a web page was turned into Markdown in 1 conversations (html: keep leaves it)"]
    assert notices == (changed if value != expected else [])


def test_other_formats_are_left_alone() -> None:
    row = {"prompt": "Q", "completion": f"{PAGE}<p>A</p></div>"}
    (item,) = parse([("d", 1, row)], DataSource(path="./d.json", format="prompt-completion"))
    assert isinstance(item, Dialogue)
    assert item.messages[1].content == row["completion"]
