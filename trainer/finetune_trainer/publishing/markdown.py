"""Texts of others inside Markdown: in a table's cell, in a sentence, in a block of code, each so that it stays what it is.

In: any text. Out: Markdown as GitHub and the Hub read it, in which the text neither ends what it is in, nor begins HTML or a link.
"""

import re

from finetune_trainer.reporting.readable import visible

_ACTIVE = re.compile(r"([\\`*_\[\]<>|#!~&$])")
_TICKS = re.compile("`+")


def cell(value: object) -> str:
    """Text for a table, which may hold links of ours: one line, and nothing that would end the cell or begin HTML.

    >>> cell("a|b\\nc <script>")
    'a\\\\|b c &lt;script>'
    """
    return " ".join(str(value).split()).replace("|", r"\|").replace("<", "&lt;")


def plain(text: str) -> str:
    """Text for a sentence or a cell: one line, in which no character means anything.

    >>> plain("![x](https://a.b)\\n<b>")
    '\\\\!\\\\[x\\\\](https\\\\://a.b) \\\\<b\\\\>'
    """
    # The colon: GitHub and the Hub make links of bare addresses.
    return _ACTIVE.sub(r"\\\1", " ".join(visible(text).split())).replace("://", r"\://")


def code(text: str) -> str:
    """Text as code within a line; in a table, `cell` comes after it.

    >>> code("a b"), code("a`b"), code("`")
    ('`a b`', '``a`b``', '`` ` ``')
    """
    line = " ".join(visible(text).split()) or "?"
    fence = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def fenced(text: str, language: str = "text") -> str:
    """Text as a block of code, whose fence is longer than any inside.

    >>> print(fenced("a\\n```\\nb"))
    ````text
    a
    ```
    b
    ````
    """
    fence = "`" * max(3, _longest_run(text) + 1)
    lines = "\n".join(visible(text).splitlines())
    return f"{fence}{language}\n{lines}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, _TICKS.findall(text)), default=0)
