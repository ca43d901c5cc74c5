"""A row as its file or Hub holds it, before anybody asks what its columns mean.

Every reader of a kind of file gives these: columns, or an `Unreadable` with the reason, so that the limit for wrong rows decides.
"""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a row that could not be decoded, and says why."""

    reason: str


Columns = dict[str, Any]
# (file or Hub id, row from 1, columns); in JSON lines the row is the line, blank ones counted.
Row = tuple[str, int, Columns | Unreadable]


def undecodable(error: Exception) -> str:
    """Why a row's text can't be decoded."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    return "JSON nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"
