"""An answer on a terminal: all of it, once, and code in colour."""

import re
from typing import Any

import pytest

from finetune_cli.highlighted import Highlighter

ANSWER = '''Like this:

```python
def f(n):
    """Two
    lines."""
    return "a" * n

    
	x = 1  
```

And `inline` code, ``more``, *stars*.
~~~
plain
~~~
Done.'''


def shown(text: str, size: int) -> str:
    """What a terminal gets of a text that comes in pieces of `size` characters."""
    out: list[str] = []
    highlighter = Highlighter(out.append)
    for start in range(0, len(text), size):
        highlighter.add(text[start : start + size])
    highlighter.close()
    return "".join(out)


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 500])
@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        ANSWER[:60],
        ANSWER[:20],
        "",
        "no code",
        "```\nopen",
        "```python\nx = 1\n",
        "``` not a fence ``` here\nx",
        "a\n\n\nb\n",
        "```py",
    ],
)
def test_every_character_is_shown_once_whatever_the_pieces(text: str, size: int) -> None:
    assert without_colour(shown(text, size)).rstrip("\n") == text.rstrip("\n")
    assert shown(text, size) == shown(text, 1)


def test_code_is_coloured_and_prose_is_not() -> None:
    lines = shown(ANSWER, 3).split("\n")
    coloured: Any = {without_colour(line).strip(): "\x1b[" in line for line in lines}
    assert coloured["def f(n):"]
    # Within a text of several lines, though the line alone looks like no text.
    assert coloured['lines."""']
    assert not coloured["Like this:"]
    assert not coloured["And `inline` code, ``more``, *stars*."]
    assert not coloured["plain"]


def test_prose_comes_at_once_and_code_line_by_line() -> None:
    out: list[str] = []
    highlighter = Highlighter(out.append)
    highlighter.add("Hel")
    assert out == ["Hel"]
    highlighter.add("lo `a")
    assert "".join(out) == "Hello `a"
