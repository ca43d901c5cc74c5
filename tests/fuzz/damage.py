"""What slips, tools and crashes make of a valid value: texts, bytes and trees of JSON, damaged. Strategies of hypothesis."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

# Each has been somebody's bug somewhere: kinds that YAML and JSON know, edges of numbers, texts that break lines, terminals and paths.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 0.5, 1e308, float("nan"), float("inf"), float("-inf"),
    "", " ", "0", "-1", "null", "true", "nan", "a", "A b", "..", "../..", "/", "./", "~", "s3://", "s3://bucket", "https://a:b@c/d",
    "a/b", "a/b/c", "\x00", "\x1b[31m", "\u200b", "\ud800", "\u202e", "\u00e9" * 300, "x" * 70_000, "1e999", "1_000", "0x1F", "12:30:45",
    "2026-01-02", [], [None], [[]], [""], {}, {"": ""}, {"a": None}, [{}], {"name": "x"}, {"path": "x"},
)  # fmt: skip
ODD_TOKENS: tuple[str, ...] = (
    "\t", "\r", "\n", "\n\n", "---\n", "...\n", "- ", ": ", "{", "}", "[", "]", "[" * 2000, "{a: " * 500, "&a ", "*a", "!!int ", "<<: ",
    "#", "!!python/object:os.system ", "%YAML 9.9\n", "'", '"', "|", ">", "\\", "\\ud800", "null", "~", ".inf", "-.inf", ".nan", "1e999",
    "9" * 5000, "0x" + "f" * 5000, "0o9", "1_0", "\x00", "\x85", "\u2028", "\ufeff", "\x1b[2J",
)  # fmt: skip


# Where a value of YAML begins.
_BEFORE_VALUES = re.compile(r"(?<=[:-]) ")


def odd_values() -> st.SearchStrategy[Any]:
    """A value of any kind."""
    leaves = st.sampled_from(ODD_VALUES) | st.integers() | st.floats() | st.text(max_size=8)
    trees = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5
    )
    return trees.map(copy.deepcopy)  # who damages one further doesn't damage the list above


@st.composite
def damaged_tree(draw: st.DrawFn, valid: Any) -> Any:
    """A tree of JSON in which up to four places hold something else, are gone, stand twice or have another name."""
    tree = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(tree))
        if not places:
            return draw(odd_values())
        container, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(("value", "value", "value", "gone", "named", "twice"))):
            case "value":
                container[key] = draw(odd_values())
            case "gone":
                del container[key]
            case "named" if isinstance(container, dict):
                container[draw(st.sampled_from(("", "name", "x", "Name", str(key) + " ", str(key).swapcase())))] = container.pop(key)
            case _ if isinstance(container, list):
                container.insert(key, copy.deepcopy(container[key]))
            case _:
                container[key] = [container[key]]
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


@st.composite
def damaged_text(draw: st.DrawFn, valid: str) -> str:
    """A text with lines moved, doubled or gone, and tokens put where they don't belong."""
    text = valid
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)) | st.sampled_from([0, *(found.end() for found in _BEFORE_VALUES.finditer(text))]))
        match draw(st.sampled_from(("token", "token", "cut", "gone", "twice", "indented"))):
            case "token":
                text = text[:at] + draw(st.sampled_from(ODD_TOKENS)) + text[at:]
            case "cut":
                text = text[:at]
            case "gone":
                text = text[:at] + text[at + draw(st.integers(1, 40)) :]
            case "twice":
                text = text[:at] + text[max(0, at - draw(st.integers(1, 80))) : at] + text[at:]
            case _:
                line = text.rfind("\n", 0, at) + 1
                text = text[:line] + " " * draw(st.integers(1, 5)) + text[line:]
    return text


@st.composite
def damaged_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes as a disk that lies, a copy that is cut off or a wrong tool leaves them."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(("bit", "bit", "byte", "cut", "gone", "zeros", "more", "number"))):
            case "bit" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "byte" if data:
                data[at] = draw(st.sampled_from((0, 10, 34, 92, 91, 123, 127, 128, 255)))
            case "cut":
                del data[at:]
            case "gone":
                del data[at : at + draw(st.integers(1, 64))]
            case "zeros":
                data[at : at + 32] = bytes(len(data[at : at + 32]))
            case "number":
                data[at : at + 8] = draw(st.sampled_from((2**63 - 1, 2**31, 2**64 - 1, 0, 1))).to_bytes(8, "little")
            case _:
                data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


def damaged_json(valid: Any) -> st.SearchStrategy[bytes]:
    """The JSON of a value, damaged as a value or as bytes. Python's own JSON knows NaN, and so does what reads it."""
    text = json.dumps(valid).encode()
    trees = damaged_tree(valid).map(lambda tree: json.dumps(tree).encode())
    return (
        trees | trees | damaged_bytes(text) | st.sampled_from((b"", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"\xff\xfe{}", b"1e999"))
    )
