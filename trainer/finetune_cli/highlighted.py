"""An answer in the terminal while it comes: prose as it arrives, code line by line and in colour.

In: pieces of Markdown. Out: characters that are only ever added, so that nothing flickers or is drawn twice, whatever the window's size.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

_FENCE: Final = re.compile(r"\s{0,3}(`{3,}|~{3,})\s*([\w+#.-]*)\s*$")
# What a line that has not ended yet may still become a fence from.
_FENCE_BEGINS: Final = re.compile(r"\s{0,3}(`{1,}|~{1,})[^\n]*$|\s{0,3}$")


class Highlighter:
    """Writes an answer to a terminal."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """`write` puts characters on the terminal."""
        self._write = write
        self._line = ""  # of which nothing is shown yet, or (in prose) what of it is shown
        self._shown = 0
        self._fence: str | None = None
        self._language = ""
        self._code: list[str] = []

    def add(self, text: str) -> None:
        """Show what can be shown."""
        *whole, rest = (self._line + text).split("\n")
        for line in whole:
            self._end_line(line)
        self._line = rest
        if self._fence is None and not (self._shown == 0 and _FENCE_BEGINS.match(rest)):
            self._write(rest[self._shown :])
            self._shown = len(rest)

    def close(self) -> None:
        """The answer is over, perhaps in the middle of a line."""
        line, self._line = self._line, ""
        if self._fence is not None and line:
            self._end_line(line)
        else:
            self._write(line[self._shown :] + "\n")

    def _end_line(self, line: str) -> None:
        fence = _FENCE.match(line) if self._shown == 0 else None
        shown, self._shown = self._shown, 0
        if self._fence is None:
            self._write(line[shown:] + "\n")
            if fence:
                self._fence, self._language, self._code = fence[1], fence[2], []
        elif fence and fence[1].startswith(self._fence) and not fence[2]:
            self._fence = None
            self._write(line + "\n")
        else:
            self._code.append(line)
            self._show_code()

    def _show_code(self) -> None:
        """The last line, coloured by all of the code before it: a text of several lines is one."""
        self._write(_coloured("\n".join(self._code), self._language).rpartition("\n")[2] + "\n")


def _coloured(code: str, language: str) -> str:
    """Code with the terminal's own sixteen colours, line by line; as it is where the language is unknown."""
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters import TerminalFormatter  # type: ignore[import-untyped]
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
    from pygments.util import ClassNotFound  # type: ignore[import-untyped]

    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return code
    return str(highlight(code, lexer, TerminalFormatter()))


def wants_colour(environment: Mapping[str, str]) -> bool:
    """Whether the terminal's user does, by the usual variables (no-color.org).

    >>> wants_colour({"TERM": "xterm"}), wants_colour({"NO_COLOR": "1"}), wants_colour({"TERM": "dumb"})
    (True, False, False)
    """
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
