"""The Python in a model's answer: code blocks without the words around them, and without what only a notebook understands.

In: an answer's text. Out: one program, what was taken out of it, and the modules that it imports and this machine lacks. Nothing is run,
and whether a program is right is unknown here.
"""

import ast
import importlib.util
import re
import sys
import warnings
from dataclasses import dataclass

# What a fence says of Python; "" is a fence that says nothing.
_PYTHON = frozenset({"python", "python3", "py", "py3", "ipython", "ipython3"})
_FENCE = re.compile(r"^(?P<indent> *)(?P<mark>`{3,}|~{3,}) *(?P<language>[\w+.-]*)")
# Cell magics after which a cell is still Python.
_PYTHON_CELLS = frozenset({"time", "timeit", "capture", "prun", "python", "python3"})
_MAGIC = re.compile(r"^\s*(?:[%!?]|[\w.\[\]'\"]+\?{1,2}\s*$|[\w, ]+=\s*[%!])")
# The parser's own bound on what it can take: no program of a model is longer.
_LONGEST = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Code that Python can be given. `left_out`: lines for a notebook, which are `pass` in it."""

    code: str
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Block:
    language: str
    code: str


def program(answer: str) -> Program | None:
    """The answer's Python: its blocks that say so, in order, as one program; without any, its blocks that say nothing; without a fence,
    the answer itself if it is Python. None where there is nothing. What stands after an open fence counts: the answer was cut there.

    >>> program("Sure!\\n```python\\n%matplotlib inline\\nprint(1)\\n```\\nThis prints 1.")
    Program(code='pass\\nprint(1)\\n', left_out=('%matplotlib inline',))
    """
    blocks = [block for block in _blocks(answer) if block.code.strip() and not _is_other_cell(block.code)]
    chosen = [block.code for block in blocks if block.language in _PYTHON] or [block.code for block in blocks if not block.language]
    if not chosen and not _blocks(answer) and answer.strip() and _mistaken_line(answer) is None:
        chosen = [answer]
    if not chosen:
        return None
    return without_magics("\n".join(chosen))


def without_magics(code: str) -> Program:
    """The code with magics (`%...`), shell lines (`!...`) and questions (`?...`) as `pass`, one line for one line.

    Code that Python parses is left as it is.
    """
    lines = code.split("\n")
    left_out: list[str] = []
    while (number := _mistaken_line("\n".join(lines))) is not None and number <= len(lines):
        line = lines[number - 1]
        if not _MAGIC.match(line):
            break
        left_out.append(line.strip())
        lines[number - 1] = line[: len(line) - len(line.lstrip())] + "pass"
    return Program(code="\n".join(lines), left_out=tuple(left_out))


def missing_imports(code: str) -> list[str]:
    """Top-level modules that the code imports and this interpreter doesn't find; empty for code that isn't Python.

    >>> missing_imports("import os, no_such_module\\nfrom no_such_package.deep import thing")
    ['no_such_module', 'no_such_package']
    """
    if _mistaken_line(code) is not None:
        return []
    nodes = list(ast.walk(_parsed(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    tops = dict.fromkeys(name.split(".")[0] for name in names)
    return [top for top in tops if top not in sys.builtin_module_names and not _is_found(top)]


def _is_found(module: str) -> bool:
    """A top-level module is looked for, not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # `__main__`, and modules that were made by hand
        return True


def _blocks(answer: str) -> list[_Block]:
    """Fenced blocks as CommonMark has them: closed by a fence at least as long, of the same sign; as far indented as their own fence."""
    blocks: list[_Block] = []
    lines: list[str] | None = None
    opened: re.Match[str] | None = None
    for line in answer.splitlines():
        fence = _FENCE.match(line)
        if lines is None or opened is None:
            if fence:
                opened, lines = fence, []
        elif fence and not fence["language"] and fence["mark"].startswith(opened["mark"]):
            blocks.append(_block(opened, lines))
            lines = None
        else:
            lines.append(line)
    if lines and opened is not None:
        blocks.append(_block(opened, lines))
    return blocks


def _block(opened: re.Match[str], lines: list[str]) -> _Block:
    indent = len(opened["indent"])
    code = "".join(f"{line[min(indent, len(line) - len(line.lstrip())) :]}\n" for line in lines)
    return _Block(opened["language"].lower(), code)


def _is_other_cell(code: str) -> bool:
    """Whether a cell magic makes it something else than Python, such as `%%bash`."""
    first = code.lstrip().split("\n", 1)[0]
    return first.startswith("%%") and first[2:].split(" ")[0] not in _PYTHON_CELLS


def _mistaken_line(code: str) -> int | None:
    """The line at which Python stops understanding; 0 where it gives up on all of it; None where there is no mistake."""
    if len(code) > _LONGEST:
        return 0
    try:
        _parsed(code)
    except SyntaxError as error:
        return error.lineno or 0
    except (ValueError, MemoryError, RecursionError):  # null characters, and nesting that is too deep
        return 0
    return None


def _parsed(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on the style of strings and comparisons
        return ast.parse(code)
