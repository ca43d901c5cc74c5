"""What number was probably meant by a value that is none, in the units of its field; only one that the field takes is ever suggested."""

import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from finetune_api.fields import accepts, at
from finetune_api.yaml_text import yaml_value

_SECONDS: Final = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_THOUSANDS: Final = {"k": 1_000, "ki": 1_024, "m": 1_000_000, "mi": 1_048_576, "g": 1_000_000_000}
_NUMBER: Final = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z%]*)\s*")


def number_remedy(value: object, loc: Sequence[str | int], root: type[BaseModel], *, whole: bool) -> str:
    """What to write instead of `value` in the field at `loc` below `root`."""
    noun = "a whole number" if whole else "a number"
    if isinstance(value, float):
        near = sorted({int(value // 1), int(-(-value // 1))}) if value == value and abs(value) < 2**63 else []
        fitting = [str(number) for number in near if _fits(number, loc, root)]
        return f"write {' or '.join(fitting)}" if fitting else "write a finite number" if not whole else f"write {noun}"
    match = _NUMBER.fullmatch(value.replace("_", "").replace(",", "")) if isinstance(value, str) else None
    if match is None:
        return f"write {noun} without quotes" if isinstance(value, str) else f"write {noun}"
    number, unit = float(match[1]), match[2].lower()
    is_time = "seconds" in str(loc[-1]).lower()
    factors = [(_SECONDS if is_time else _THOUSANDS).get(unit, 0.01 if unit == "%" else 1)]
    if unit == "k" and str(loc[-1]).lower().endswith(("length", "size")):
        factors.append(1024)
    known = not unit or unit == "%" or factors[0] != 1 or (is_time and unit in _SECONDS)
    fitting = [text for factor in factors if _fits(yaml_value(text := _plain(number * factor), ""), loc, root)] if known else []
    if not fitting:
        bare = _plain(number)
        if unit and not known and _fits(yaml_value(bare, ""), loc, root):
            return f"write {bare}, without the unit `{match[2]}`"
        return f"write {noun} without the unit `{match[2]}`" if unit else f"write {noun} in the field's range"
    if not unit and isinstance(value, str) and isinstance(yaml_value(value, ""), int | float):
        return f"remove the quotes: {fitting[0] if whole else value.strip()}"
    return ("this field is in seconds: " if is_time and unit else "") + f"write {' or '.join(fitting)}"


def _fits(number: Any, loc: Sequence[str | int], root: type[BaseModel]) -> bool:
    found = at(loc, root)
    return found is None or accepts(found.declared, number)


def _plain(number: float) -> str:
    """
    >>> _plain(1000.0), _plain(0.03), _plain(2e-5)
    ('1000', '0.03', '2e-05')
    """
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:.12g}"
