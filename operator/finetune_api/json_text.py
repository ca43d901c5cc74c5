"""JSON that others wrote, or a crash cut off: whatever is wrong with it is a ValueError."""

import json
from typing import Any


def json_value(text: str | bytes) -> Any:
    """The value. Raises ValueError, also for one that is nested deeper than Python can follow.

    >>> json_value("[" * 100_000)
    Traceback (most recent call last):
    ValueError: nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
