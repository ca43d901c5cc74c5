"""Rendered chat pages become text again; text that only looks like markup stays as it is."""

import pytest

from finetune_api.finetunejob import DataSource
from finetune_trainer.data.dialogues import Dialogue, parse
from finetune_trainer.data.formats import Turn
from finetune_trainer.data.markup import without_markup

PAGE = '<div class="markdown prose w-full break-words dark:prose-invert light">'


def answer(html: str) -> object:
    """The assistant's text after cleaning."""
    return without_markup([("human", "Q", None), ("gpt", html, None)])[1][1]


@pytest.mark.parametrize(
    "text",
    [
        "#include <stdio.h>\nint main() { return 0; }",
        "a < b and b > c",
        "<stdio.h> is a header",
        "<- assigns in R",
        "<|end|>",
        'Use `<div class="card">` here.',
        "<html><body><p>Hello</p></body></html>",
        "<!DOCTYPE html>\n<html></html>",
        '<div class="card"><p>Hi</p></div>',
        '<p class="lead">Hi</p>',
        "<p>Put this in your page</p> and it works",
        "<p>One</p>\nThen run `a < b`.",
        "<ul><li><input></li></ul>",
        "<T> is a type parameter: Vec<T>",
        "<script>alert(1)</script>",
        "```html\n<p>Hello</p>\n```",
        "<thinking>\nStep one.\n</thinking>\nDone.",
        "<",
        "",
    ],
)
def test_text_that_is_no_rendered_page_stays(text: str) -> None:
    turns: list[Turn] = [("human", "Q", None), ("gpt", text, None)]
    assert without_markup(turns) is turns


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hello &amp; <strong>welcome</strong></p>", "Hello & **welcome**"),
        (f"{PAGE}<p>Use <code>x &lt; y</code>.</p></div>", "Use `x < y`."),
        (f"{PAGE}Plain</div>", "Plain"),
        ("<p>One</p>\n<p>Two\nlines</p>", "One\n\nTwo lines"),
        ("<h2>Title</h2><p>Text<br>next</p><hr>", "## Title\n\nText\nnext\n\n---"),
        ("<ul><li>a</li><li><p>b</p></li></ul>", "- a\n- b"),
        ("<ol><li>a<ul><li>x</li></ul></li><li>b</li></ol>", "1. a\n   - x\n2. b"),
        ("<ol><li>Do:<pre><code>a\n\n\nb</code></pre></li></ol>", "1. Do:\n   ```\n   a\n   \n   \n   b\n   ```"),
        ("<blockquote><p>Said</p></blockquote>", "> Said"),
        ('<p>See <a href="https://example.org" target="_blank">this</a>.</p>', "See [this](https://example.org)."),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>", "| a | b |\n| 1 | 2 |"),
        (
            '<p>Run:</p><pre><div class="bg-black"><div class="flex"><span>c</span><button>Copy code</button></div>'
            '<div class="p-4"><code class="hljs language-c++">#include &lt;vector&gt;\n\n\nint  x;\n</code></div></div></pre>',
            "Run:\n\n```c++\n#include <vector>\n\n\nint  x;\n```",
        ),
    ],
)
def test_rendered_markdown_becomes_markdown(html: str, text: str) -> None:
    assert answer(html) == text


def test_what_a_user_typed_is_kept_unless_the_page_wraps_it() -> None:
    typed = without_markup([("human", "<p>why is this bold?</p>", None), ("gpt", "<p>It is not.</p>", None)])
    assert [content for _, content, _ in typed] == ["<p>why is this bold?</p>", "It is not."]
    wrapped = without_markup([("human", '<div class="whitespace-pre-wrap">if a &lt; b:\n\n\n    go()</div>', None)])
    assert wrapped[0][1] == "if a < b:\n\n\n    go()"


def test_only_sharegpt_is_cleaned_and_it_is_told() -> None:
    notices: list[str] = []
    sharegpt = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "<p>A</p>"}]}
    (item,) = parse([("d", 1, sharegpt)], DataSource(path="./d.json", format="sharegpt"), notice=notices.append)
    assert isinstance(item, Dialogue)
    assert item.messages[1].content == "A"
    assert notices == ["./d.json: HTML of a web page was turned into text in 1 conversations"]
    messages = {"prompt": "Q", "completion": "<p>A</p>"}
    (item,) = parse([("d", 1, messages)], DataSource(path="./d.json", format="prompt-completion"))
    assert isinstance(item, Dialogue)
    assert item.messages[1].content == "<p>A</p>"
