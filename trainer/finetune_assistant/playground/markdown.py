"""A model's text as Markdown that a page may show: code as code, and no tag or picture of the text's own.

In and out: text. A tag in an answer is more often a type such as `List<T>` than HTML, and gradio's chat (6.31) hides it, with all that
follows where it is left open; a picture would be fetched from wherever the text says. Models and pages are unknown here.
"""

import re

_FENCE = re.compile(r"^ {0,3}(?P<mark>`{3,}|~{3,})")
_CODE = re.compile(r"(?P<ticks>`+)(?!`)(?:.+?)(?<!`)(?P=ticks)(?!`)")


def plain_markdown(text: str) -> str:
    r"""Tags and pictures outside of code as what they are written as.

    >>> plain_markdown("A List<T> is `List<T>` ![x](http://y)")
    'A List&lt;T> is `List<T>` !\\[x](http://y)'
    >>> plain_markdown("~~~\nif a < b:\n~~~\n<b>")
    '~~~\nif a < b:\n~~~\n&lt;b>'
    """
    lines: list[str] = []
    opened = ""
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if opened:
            closes = fence is not None and fence["mark"].startswith(opened) and not line.strip().strip(opened[0])
            opened = "" if closes else opened
        elif fence:
            opened = fence["mark"]
        else:
            line = _outside_of_code(line)
        lines.append(line)
    return "\n".join(lines)


def _outside_of_code(line: str) -> str:
    written, end = "", 0
    for code in _CODE.finditer(line):
        written += _escaped(line[end : code.start()]) + code[0]
        end = code.end()
    return written + _escaped(line[end:])


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("![", "!\\[")
