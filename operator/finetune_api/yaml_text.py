"""YAML text -> plain values, by the rules that people expect of a job file.

Scalars follow YAML 1.2's core schema: `2e-5` is a float, `yes` and a date are strings. Refused, with line numbers: keys
given twice, several documents, aliases that contain themselves. This room knows nothing of a FineTuneJob.
"""

import json
import re
from collections.abc import Iterator

import yaml

from finetune_api.errors import InvalidSpec, Problem

_CORE_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars instead of 1.1's."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML's own attribute

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """As PyYAML does; a value that isn't what its tag says, or a number of thousands of digits, is an error with a line."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, KeyError, AttributeError, TypeError):
            raise yaml.constructor.ConstructorError(
                None, None, f"found a value that can't be read as {node.tag.rpartition(':')[2]}", node.start_mark
            ) from None


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)  # 010 is ten in YAML 1.2


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in _CORE_SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first])
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def yaml_value(text: str, where: str) -> object:
    """The one document in `text`; None when it is empty. Raises InvalidSpec whose problems name `where` or a field.

    >>> yaml_value("{learningRate: 2e-5, when: 2026-01-02, on: yes}", "job.yaml")
    {'learningRate': 2e-05, 'when': '2026-01-02', 'on': 'yes'}
    """
    try:
        loader = _Loader(text)
        documents = [node for node in _documents(loader) if not _is_empty(node)]
        if not documents:
            return None
        if len(documents) > 1:
            line = documents[1].start_mark.line + 1
            raise InvalidSpec([Problem(where, f"a second document begins at line {line}", "keep one FineTuneJob in a file")])
        if problems := list(_problems(documents[0], "", ())):
            raise InvalidSpec(problems)
        return loader.construct_document(documents[0])
    except yaml.YAMLError as error:
        raise InvalidSpec([_syntax_problem(error, where)]) from None
    except RecursionError:  # thousands of brackets
        raise InvalidSpec([Problem(where, "is nested too deeply", "a FineTuneJob has at most a dozen levels")]) from None


def as_yaml(text: str) -> str:
    """The text as it is to be written for YAML to read text: in quotes where it would read something else.

    >>> as_yaml("org/name"), as_yaml("1e3"), as_yaml("a: b")
    ('org/name', '"1e3"', '"a: b"')
    """
    try:
        return text if yaml_value(text, "") == text else json.dumps(text, ensure_ascii=False)
    except InvalidSpec:
        return json.dumps(text, ensure_ascii=False)


def written_scalars(text: str) -> dict[tuple[str | int, ...], tuple[object, str]]:
    """Where each plain scalar of the document stands, what became of it, and how it is written: `1234e56` is 1.234e+59, `0123` is 123.

    `text` is one that `yaml_value` has read; a name that a mapping has from a merge (`<<`) is not among them.
    """
    loader = _Loader(text)
    node = next((node for node in _documents(loader) if not _is_empty(node)), None)
    return dict(_scalars(loader, node, ())) if node is not None else {}


def _scalars(loader: _Loader, node: yaml.Node, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], tuple[object, str]]]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _scalars(loader, item, (*path, index))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(loader, value, (*path, str(key.value)))
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        yield path, (loader.construct_object(node), str(node.value))


def _documents(loader: _Loader) -> Iterator[yaml.Node]:
    while loader.check_node():
        node = loader.get_node()
        assert node is not None
        yield node


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null" and not node.value


def _problems(node: yaml.Node, path: str, parents: tuple[int, ...]) -> Iterator[Problem]:
    """Keys given twice and aliases that contain themselves, in the order of the text."""
    if id(node) in parents:
        yield Problem(path or "the document", f"an alias at line {node.start_mark.line + 1} contains itself", "write the value out")
        return
    parents = (*parents, id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _problems(item, f"{path}[{index}]", parents)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            field = f"{path}.{name}" if path else name
            if name in lines:
                yield Problem(field, f"is given twice, at lines {lines[name]} and {line}", "keep one")
            elif not isinstance(key, yaml.ScalarNode):
                yield Problem(path or "the document", f"a key at line {line} is not a plain word", "use a field's name as the key")
            else:
                yield from _problems(value, field, parents)
            lines.setdefault(name, line)


def _syntax_problem(error: yaml.YAMLError, where: str) -> Problem:
    """PyYAML's complaint in one line, with the place."""
    mark = getattr(error, "problem_mark", None)
    line = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    text = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines()[0]
    remedy = "indent with spaces" if "\\t" in text else "check indentation, quotes and colons there"
    return Problem(where, f"is not YAML{line}: {text}", remedy)
